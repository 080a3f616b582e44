"""What a run is: its configuration, its folder, its checkpoints by name, and what it logs."""
