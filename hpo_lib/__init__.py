"""A research workbench for hyperparameter optimisation.

The names below are loaded when they are first used: only those that train import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hpo_lib.background import BackgroundStudy
    from hpo_lib.bayes import BayesSampler
    from hpo_lib.dask_workers import DaskWorkers
    from hpo_lib.data import DataConfig, load_data, load_test_data
    from hpo_lib.minimize import gp_minimize
    from hpo_lib.objective import Objective, Segment, SegmentResult
    from hpo_lib.records import read_record, study_record
    from hpo_lib.replay import PublishedObjective, SurrogateObjective, TableObjective
    from hpo_lib.simulation import SimulatedWorkers, simulate
    from hpo_lib.skopt_sampler import SkoptSampler
    from hpo_lib.space import Configuration, SearchSpace, SpaceError
    from hpo_lib.strategies import STRATEGIES, make_sampler
    from hpo_lib.study import (
        delete_study,
        estimate_cost,
        list_studies,
        open_study,
        run_study,
        trials_frame,
    )
    from hpo_lib.study_monitor import StudyMonitor
    from hpo_lib.surrogate import fit_surrogate
    from hpo_lib.surrogate_explorer import SurrogateExplorer
    from hpo_lib.training import TrainingConfig, TrainingObjective, evaluate, train
    from hpo_lib.widgets import SpaceEditor
    from hpo_lib.workers import LocalWorkers

__all__ = [
    "STRATEGIES",
    "BackgroundStudy",
    "BayesSampler",
    "Configuration",
    "DaskWorkers",
    "DataConfig",
    "LocalWorkers",
    "Objective",
    "PublishedObjective",
    "SearchSpace",
    "Segment",
    "SegmentResult",
    "SimulatedWorkers",
    "SkoptSampler",
    "SpaceEditor",
    "SpaceError",
    "StudyMonitor",
    "SurrogateExplorer",
    "SurrogateObjective",
    "TableObjective",
    "TrainingConfig",
    "TrainingObjective",
    "delete_study",
    "estimate_cost",
    "evaluate",
    "fit_surrogate",
    "gp_minimize",
    "list_studies",
    "load_data",
    "load_test_data",
    "make_sampler",
    "open_study",
    "read_record",
    "run_study",
    "simulate",
    "study_record",
    "train",
    "trials_frame",
]

_ROOMS = {
    "background": ("BackgroundStudy",),
    "bayes": ("BayesSampler",),
    "surrogate": ("fit_surrogate",),
    "dask_workers": ("DaskWorkers",),
    "data": ("DataConfig", "load_data", "load_test_data"),
    "minimize": ("gp_minimize",),
    "objective": ("Objective", "Segment", "SegmentResult"),
    "records": ("read_record", "study_record"),
    "replay": ("PublishedObjective", "SurrogateObjective", "TableObjective"),
    "simulation": ("SimulatedWorkers", "simulate"),
    "skopt_sampler": ("SkoptSampler",),
    "space": ("Configuration", "SearchSpace", "SpaceError"),
    "strategies": ("STRATEGIES", "make_sampler"),
    "study": (
        "delete_study",
        "estimate_cost",
        "list_studies",
        "open_study",
        "run_study",
        "trials_frame",
    ),
    "study_monitor": ("StudyMonitor",),
    "surrogate_explorer": ("SurrogateExplorer",),
    "training": ("TrainingConfig", "TrainingObjective", "evaluate", "train"),
    "widgets": ("SpaceEditor",),
    "workers": ("LocalWorkers",),
}
_HOMES = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        message = f"module 'hpo_lib' has no attribute {name!r}"
        raise AttributeError(message)
    return getattr(import_module(f"hpo_lib.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
