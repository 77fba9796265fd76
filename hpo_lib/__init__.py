"""A research workbench for hyperparameter optimisation.

The names in `__init__.pyi` are loaded when first used: only those that train import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
