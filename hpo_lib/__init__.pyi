from .background import BackgroundStudy
from .bayes import BayesSampler
from .dask_workers import DaskWorkers
from .data import DataConfig, load_data, load_test_data
from .minimize import gp_minimize
from .objective import Objective, Segment, SegmentResult
from .records import read_record, study_record
from .replay import PublishedObjective, SurrogateObjective, TableObjective
from .simulation import SimulatedWorkers, simulate
from .skopt_sampler import SkoptSampler
from .space import Configuration, SearchSpace, SpaceError
from .strategies import STRATEGIES, make_sampler
from .study import (
    delete_study,
    estimate_cost,
    list_studies,
    open_study,
    run_study,
    trials_frame,
)
from .study_monitor import StudyMonitor
from .surrogate import fit_surrogate
from .surrogate_explorer import SurrogateExplorer
from .training import TrainingConfig, TrainingObjective, evaluate, train
from .widgets import SpaceEditor
from .workers import LocalWorkers

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
