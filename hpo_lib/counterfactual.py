"""After a study: what would other strategies, or a larger budget, have found?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import optuna
import pandas as pd
from optuna.samplers import BaseSampler

from hpo_lib.compare import final_values, replay, separations
from hpo_lib.records import study_record
from hpo_lib.replay import TRUST_LIMIT, SurrogateObjective, Trust
from hpo_lib.strategies import STRATEGIES


@dataclass(frozen=True)
class Counterfactual:
    """What replays of a study on a surrogate of its own trials found.

    Attributes:
        table: a row per strategy and budget, the study's own first: median and quartiles of the
            final value, and how it compares with the first row, with paired seeds: `wins` of
            them, and `p` by Wilcoxon and Holm.
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
                p, ahead = row["p"], f"ahead in {row['wins']:.0f} of {row['n_seeds']:.0f}"
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

    The own one is replayed as well, because values of a surrogate compare with such values alone.

    Args:
        study: one that `run_study` recorded, with at least 10 completed configurations.
        strategies: what else might have been used.
        n_trials: the budget; the study's own number of trials by default.
        factors: multiples of the budget.
        seeds: of the replays.
        processes: that replay.
        limit: the rank correlation below which the surrogate warns.
    """
    surrogate = SurrogateObjective(study_record(study), limit=limit)
    own = study.user_attrs["settings"]["strategy"]
    named = own in STRATEGIES  # else a sampler was handed in, or named by its path
    tried: list[str] = list(dict.fromkeys([*([own] if named else []), *strategies]))
    budget = n_trials or len(surrogate.record.configurations)
    frames: list[pd.DataFrame] = []
    for factor in factors:
        n = factor * budget
        labels: dict[str, str | BaseSampler] = {f"{s} × {n}": s for s in tried}
        frames.append(replay(surrogate, surrogate.space, labels, seeds, n, processes=processes))
    frame = pd.concat(frames, ignore_index=True)
    frame.attrs["trust"] = surrogate.trust
    return Counterfactual(_table(frame), frame, float(study.best_value), surrogate.trust)


def _table(frame: pd.DataFrame) -> pd.DataFrame:
    finals = final_values(frame)
    table = pd.DataFrame({"n_seeds": finals.count(), "median": finals.median()})
    table["q25"], table["q75"] = finals.quantile(0.25), finals.quantile(0.75)
    pairs = separations(frame, against=finals.columns[0]).set_index("a")
    table["wins"], table["p"] = pairs["a_wins"], pairs["p"]
    return table
