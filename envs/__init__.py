"""Task families, whose simulations are stepped in batches; importing it registers their ids.

The ids are those of Gymnasium's registry, such as ``warprl/HalfCheetahDir-v1``.
"""

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
