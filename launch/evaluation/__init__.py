"""Reads runs: adaptation curves, comparison, figures, video, export."""
