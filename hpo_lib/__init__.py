"""A research workbench for hyperparameter optimisation.

What is where:

- `training`: the ResNet (`training.resnet`), the data loaders (`training.loaders`) and the trainer
- `study`: `gp_minimize` (`study.gp_minimize`), `run_study` (`study.run`) and the driver
- `samplers`: every strategy (`samplers.registry`), the Gaussian process and its acquisition
  function, pruners
- `space`: the search space
- `objective`: the contract between training and search
- `trials`: the record of a trial, and the incumbent
- `comparison`: strategies compared with paired seeds, statistics, replays of recorded trainings
- `exchange`: trials of other programs as evidence, logs for trackers
- `assessment`: what a study found, in sentences (`findings`)
- `plots`: every figure
- `widgets`: the space editor, the study monitor, the surrogate explorer and the comparison of
  studies
- `runner`: the notebooks through papermill, and the report

The names in `__init__.pyi` are the public interface, together with those of `hpo_lib.plots`. They
are loaded when first used, so that only what trains imports torch.
"""

from typing import Any

import lazy_loader

from hpo_lib.checks import naming_extras

_load, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    with naming_extras(name):
        return _load(name)
