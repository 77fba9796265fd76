"""After a study: what other strategies, or a larger budget, would have found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
import pandas as pd

from hpo_lib.comparison.hypothesis_tests import separations
from hpo_lib.comparison.run import replay
from hpo_lib.comparison.statistics import summary
from hpo_lib.comparison.surrogate_benchmark import SurrogateObjective, SurrogateQuality
from hpo_lib.comparison.training_records import study_record
from hpo_lib.formatting import format_number
from hpo_lib.samplers.registry import STRATEGIES
from hpo_lib.trials import RecordedTrial, StudyRecord, incumbent, own_trials, value_name

_KEPT_SETTINGS = ("default_first", "rungs", "pruning", "reduction_factor")


@dataclass(frozen=True)
class Counterfactual:
    """Replays of a study on a surrogate of its own trials.

    Attributes:
        table: a row per strategy and budget, the study's own first if it has a name: median and
            quartiles of the final value, and how it compares with the first row, with paired
            seeds: `wins` of them, and `p` by Wilcoxon and Holm.
        frame: the trials of all replays; the labels are strategy × trials.
        best_value: the incumbent's value in the study itself: one draw, and lucky, as the lowest
            of many is.
        quality: how well the surrogate predicts; it knows little of where the study never went.
    """

    table: pd.DataFrame
    frame: pd.DataFrame
    best_value: float
    quality: SurrogateQuality

    def __str__(self) -> str:
        return (
            f"The study found {format_number(self.best_value)}. Replayed on a surrogate of its "
            f"own trials (wins and p: against {self.table.index[0]}):\n"
            f"{self.table.to_string(float_format=format_number)}\n"
            f"Surrogate: {self.quality}"
        )


def counterfactual(
    study: optuna.Study,
    strategies: Sequence[str] = ("random", "tpe"),
    *,
    n_trials: int | None = None,
    factors: Sequence[int] = (1, 2),
    seeds: Sequence[int] = range(20),
    processes: int = 1,
) -> Counterfactual:
    """Replay a study's own strategy and others on a surrogate of its trials.

    The study's own strategy is replayed as well, because values of a surrogate compare with such
    values alone; not, however, a sampler that was handed in, whose options no record has. Pruning
    and the first trial are as they were in the study.

    Args:
        study: one that `run_study` recorded, with at least 10 completed configurations.
        strategies: others that might have been used.
        n_trials: the budget; the study's own number of trials, failed ones too, by default.
        factors: multiples of the budget.
        seeds: of the replays.
        processes: that replay.

    Raises:
        ValueError: too few configurations were completed.
    """
    surrogate = SurrogateObjective(study_record(study))
    recorded = StudyRecord.of(study).settings
    settings = {key: recorded[key] for key in _KEPT_SETTINGS if key in recorded}
    replayed = list(strategies)
    if recorded["strategy"] in STRATEGIES:
        replayed.insert(0, recorded["strategy"])

    trials = own_trials(study)
    frames: list[pd.DataFrame] = []
    for factor in factors:
        budget = factor * (n_trials or len(trials))
        frame = replay(
            surrogate,
            surrogate.space,
            {f"{strategy} × {budget}": strategy for strategy in replayed},
            seeds,
            budget,
            processes=processes,
            **settings,
        )
        frames.append(frame)

    joined = pd.concat(frames, ignore_index=True)
    joined.attrs["surrogate_quality"] = surrogate.quality
    joined.attrs["value_name"] = value_name(trials)
    table: Any = summary(joined)[["n_seeds", "median", "q25", "q75"]]
    if len(table) > 1:
        pairs = separations(joined, against=table.index[0]).set_index("a")
        table = table.assign(wins=pairs["a_wins"], p=pairs["p"])

    # A record has at least one completed training.
    best = cast("RecordedTrial", incumbent(trials))
    return Counterfactual(table, joined, best.final_value, surrogate.quality)
