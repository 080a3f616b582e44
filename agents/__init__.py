"""Policies and how they learn inside a task."""
