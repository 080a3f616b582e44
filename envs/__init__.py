"""Task families on native batches of simulations."""

from warprl.envs.family import Definition, TaskFamily
from warprl.envs.registry import UnknownFamily, family_names, make_family

__all__ = ["Definition", "TaskFamily", "UnknownFamily", "family_names", "make_family"]
