"""Clusters: the connection to Ray, here or elsewhere."""
