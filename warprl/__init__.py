"""WarpRL: meta-reinforcement learning with Warped Gradient Descent (Flennerhag et al., ICLR 2020).

Importing this package is cheap: it loads neither torch nor Ray nor an environment.
"""

__version__ = "0.1.0"
