"""Tests on a cluster of several nodes, which :mod:`helpers_cluster` starts on this machine."""
