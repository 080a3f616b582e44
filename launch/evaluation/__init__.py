"""What reads a run: adaptation curves, comparison, figures, video, export."""
