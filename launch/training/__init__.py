"""Produces runs: the training loop, Ray workers, the RLlib adapter, sweeps."""
