"""What makes a run: the training loop, Ray workers, the RLlib adapter, sweeps."""
