"""After a study: what would other strategies, or a larger budget, have found?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
import pandas as pd

from hpo_lib.comparison.run import MakeSampler, replay, separations, summary
from hpo_lib.comparison.surrogate_benchmark import TRUST_LIMIT, SurrogateObjective, Trust
from hpo_lib.comparison.training_records import study_record
from hpo_lib.samplers.registry import STRATEGIES
from hpo_lib.trials import RecordedTrial, StudyRecord, incumbent, own_trials


@dataclass(frozen=True)
class Counterfactual:
    """What replays of a study on a surrogate of its own trials found.

    Attributes:
        table: a row per strategy and budget, the study's own first if it has a name: median and
            quartiles of the final value, and how it compares with the first row, with paired
            seeds: `wins` of them, and `p` by Wilcoxon and Holm.
        frame: the trials of all replays; the labels are strategy × trials.
        found: what the study itself ended with: one draw, and lucky, as the lowest of many is.
        trust: how well the surrogate predicts; it knows little of where the study never went.
    """

    table: pd.DataFrame
    frame: pd.DataFrame
    found: float
    trust: Trust

    def __str__(self) -> str:
        first = cast("dict[str, Any]", self.table.iloc[0].to_dict())
        lines = [
            f"The study found {self.found:.4f}. Replayed on a surrogate of its own trials, with "
            f"{first['n_seeds']:.0f} seeds (strategy × trials: median, quartiles):"
        ]
        for label, row in cast("dict[str, Any]", self.table.to_dict("index")).items():
            said = f"{label}: {row['median']:.4f} ({row['q25']:.4f} to {row['q75']:.4f})"
            if label != self.table.index[0]:
                first_label, n = self.table.index[0], row["n_seeds"]
                p, ahead = row["p"], f"ahead of {first_label} in {row['wins']:.0f} of {n:.0f}"
                said += f", {ahead}, {'p' if p <= 0.05 else 'not separable, p'} = {p:.2g}"
            lines.append(said)
        return "\n".join([*lines, f"Trust: {self.trust}"])


def counterfactual(
    study: optuna.Study,
    strategies: Sequence[str] = ("random", "tpe"),
    *,
    n_trials: int | None = None,
    factors: Sequence[int] = (1, 2),
    seeds: Sequence[int] = range(20),
    processes: int = 1,
    limit: float = TRUST_LIMIT,
) -> Counterfactual:
    """Replay a study's own strategy and others on a surrogate of its trials.

    The own one is replayed as well, because values of a surrogate compare with such values alone;
    not, however, a sampler that was handed in, whose options no record has. Pruning and the first
    trial are as they were in the study.

    Args:
        study: one that `run_study` recorded, with at least 10 completed configurations.
        strategies: what else might have been used.
        n_trials: the budget; the study's own number of trials, failed ones too, by default.
        factors: multiples of the budget.
        seeds: of the replays.
        processes: that replay.
        limit: the rank correlation below which the surrogate warns.
    """
    surrogate = SurrogateObjective(study_record(study), limit=limit)
    recorded = StudyRecord.of(study).settings
    named = [recorded["strategy"]] if recorded["strategy"] in STRATEGIES else []
    tried: list[str] = list(dict.fromkeys([*named, *strategies]))
    settings: dict[str, Any] = {key: recorded[key] for key in _KEPT if key in recorded}
    own = own_trials(study)
    budget = n_trials or len(own)
    frames: list[pd.DataFrame] = []
    for factor in factors:
        n = factor * budget
        labels: dict[str, str | MakeSampler] = {f"{s} × {n}": s for s in tried}
        settings["processes"] = processes
        frames.append(replay(surrogate, surrogate.space, labels, seeds, n, **settings))
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs["trust"] = surrogate.trust
    best = cast("RecordedTrial", incumbent(own))  # a record has at least one completed training
    found = cast("float", best.value)
    return Counterfactual(_table(frame), frame, found, surrogate.trust)


_KEPT = ("default_first", "rungs", "pruning", "reduction_factor")


def _table(frame: pd.DataFrame) -> pd.DataFrame:
    table: Any = summary(frame)[["n_seeds", "median", "q25", "q75"]]
    if len(table) > 1:
        pairs = separations(frame, against=table.index[0]).set_index("a")
        table["wins"], table["p"] = pairs["a_wins"], pairs["p"]
    return table
