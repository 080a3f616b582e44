"""Gymnasium's MuJoCo robots, one file each, on what they share.

``locomotion`` holds the family and the batch that every robot builds on, ``dynamics`` the tasks
that change a robot's body. Of the other modules of ``warprl.envs``, only the registry imports
anything from here.
"""
