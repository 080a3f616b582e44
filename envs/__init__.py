"""Task families on native batches of simulations; importing it registers their Gymnasium ids."""

from warprl.envs.family import Definition, TaskFamily
from warprl.envs.gym_family import GymFamily
from warprl.envs.registry import UnknownFamily, family_names, is_meta_world, make_family
from warprl.envs.vector import make_vector, register

__all__ = [
    "Definition",
    "GymFamily",
    "TaskFamily",
    "UnknownFamily",
    "family_names",
    "is_meta_world",
    "make_family",
    "make_vector",
]

register()
