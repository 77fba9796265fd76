"""Whether replays may be believed: the surrogate out of sample, and live searches against replays.

First the surrogate of a record at the full budget, cross-validated by configuration, for each
model; and what it predicts of the best configurations when it has not seen them, because a search
ends below all that was recorded. Then, with `--live`, searches that really train: per strategy,
whether the mean of their final errors lies in the central 95 % of the means of as many replays,
drawn from `--replays`, of a surrogate that knows nothing of these searches. Live studies are saved
trial by trial, and the same command goes on where it was stopped: 5 seeds of 20 trials are 200
trainings, hours on two cores. Each is kept with its test errors, too, for
`record_trials.py --merge`, and what the searches found in `live_<record>.csv`, which goes before
searching again: on another kind of processor bayes rounds otherwise, and would train other
configurations. Remove that file when a strategy has changed.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import record_trials

from hpo_lib.comparison.run import compare, final_values, replay
from hpo_lib.comparison.surrogate_benchmark import SurrogateObjective, TrustWarning
from hpo_lib.comparison.training_records import Record, group_means, read_record
from hpo_lib.files import atomic_write_text
from hpo_lib.training.config import DataConfig, TrainingConfig

LIVE = ["strategy", "seed", "trial", "value", "best"]
"""What is kept of each trial of a live search."""


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, default="results/reference/resnet8_record.csv")
    parser.add_argument("--live", action="store_true", help="train, too")
    parser.add_argument("--data", help="the images of the record, folder:<path>; with --live")
    parser.add_argument("--strategies", nargs="+", default=["random", "bayes"])
    parser.add_argument("--seeds", type=int, default=5, help="of the live searches")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--replays", type=int, default=100)
    parser.add_argument("--workers", type=int, default=2, help="processes, live and in replays")
    parser.add_argument("--raw", type=Path, default=Path("results/reference/replay_validity"))
    parser.add_argument("--quick", action="store_true", help="10 replays, nothing live")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.replays, chosen.live = 10, False
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.simplefilter("ignore", TrustWarning)  # what it says is printed
    record = _without(chosen.record, chosen.strategies)
    models = {name: SurrogateObjective(record, model=name) for name in ("gp", "trees")}
    for name, surrogate in models.items():
        print(f"{name}: {surrogate.trust}", flush=True)
    unseen = pd.DataFrame([_unseen(record, name, s) for s in (0.1, 0.3) for name in models])
    print(unseen.round(4).to_string(index=False), flush=True)
    frames = {
        name: replay(
            surrogate,
            record.space,
            chosen.strategies,
            range(chosen.replays),
            chosen.trials,
            processes=chosen.workers,
        )
        for name, surrogate in models.items()
    }
    live = _live(record, chosen) if chosen.live else None
    table = pd.concat([_table(name, frame, live, chosen.seeds) for name, frame in frames.items()])
    print(table.round(4).to_string(index=False))
    trust = {name: surrogate.trust.spearman for name, surrogate in models.items()}
    rows, best = (json.loads(one.to_json(orient="records")) for one in (table, unseen))
    print(json.dumps({"spearman": trust, "unseen": best, "rows": rows}))


def _unseen(record: Record, model: str, share: float) -> dict[str, object]:
    """How a surrogate that has not seen the best share of the configurations predicts them."""
    means = group_means(record.errors[:, -1], record.groups)
    best = np.argsort(means)[: math.ceil(share * len(means))]
    kept = np.flatnonzero(~np.isin(record.groups, best))
    rest = Record(
        record.space,
        tuple(record.configurations[row] for row in kept),
        record.errors[kept],
        record.seconds[kept],
        record.source,
    )
    first = [record.configurations[int(np.argmax(record.groups == group))] for group in best]
    wrong = SurrogateObjective(rest, model=model).predict(first)[:, -1] - means[best]
    return {
        "model": model,
        "left_out": len(best),
        "lowest_seen": rest.best,
        "lowest": record.best,
        "mean_error": wrong.mean(),
        "mean_absolute_error": np.abs(wrong).mean(),
    }


def _without(path: Path, strategies: Sequence[str]) -> Record:
    """The record without the trainings that live searches by these strategies chose."""
    rows = [row for row in record_trials.read(path) if row["chosen_by"] not in strategies]
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / path.name
        record_trials.write(kept, rows)
        shutil.copy(path.with_suffix(".json"), folder)
        return read_record(kept)


def _live(record: Record, chosen: argparse.Namespace) -> pd.DataFrame:
    """The live searches: those that were kept, or else run now."""
    file = chosen.raw / f"live_{chosen.record.stem}.csv"
    kept = pd.read_csv(file) if file.exists() else pd.DataFrame(columns=LIVE)
    seeds, frames = range(1000, 1000 + chosen.seeds), []  # none of the replays' seeds
    for strategy in chosen.strategies:
        mine = kept.strategy == strategy
        found = kept[mine & kept.seed.isin(seeds) & (kept.trial <= chosen.trials)]
        if len(found) < len(seeds) * chosen.trials:
            found = _search(record, chosen, strategy, seeds)[LIVE]
            kept = pd.concat([kept[~mine], found])
            atomic_write_text(file, kept.to_csv(index=False))
        frames.append(found)
    live = pd.concat(frames, ignore_index=True)
    print(final_values(live).T.to_string())
    return live


def _search(
    record: Record, chosen: argparse.Namespace, strategy: str, seeds: Sequence[int]
) -> pd.DataFrame:
    """Train as the record was trained; the file beside it says how."""
    about = json.loads(chosen.record.with_suffix(".json").read_text())
    data = DataConfig(**{**about["data"], "source": chosen.data or about["data"]["source"]})
    return compare(
        record_trials.RecordingObjective(
            TrainingConfig(**about["training"]), data, chosen.raw / "trainings", strategy
        ),
        record.space,
        [strategy],
        seeds,
        chosen.trials,
        name="validity",
        storage=chosen.raw / "studies.db",
        workers=chosen.workers,
        progress=lambda text: print(text, flush=True),
    )


def _table(model: str, replayed: pd.DataFrame, live: pd.DataFrame | None, n: int) -> pd.DataFrame:
    """A row per strategy: the live mean and where 95 % of the means of n replays lie."""
    rng = np.random.default_rng(0)
    finals = final_values(replayed)
    rows = []
    for strategy in finals:
        means = rng.choice(finals[strategy].to_numpy(), size=(10_000, n)).mean(axis=1)
        low, high = np.quantile(means, (0.025, 0.975))
        row = {"model": model, "strategy": strategy, "replays": len(finals), "low": low}
        row |= {"mean": means.mean(), "high": high}
        if live is not None:
            trained = final_values(live)[strategy]
            row |= {"live_seeds": trained.count(), "live_mean": trained.mean()}
            row["inside"] = bool(low <= trained.mean() <= high)
        rows.append(row)
    return pd.DataFrame(rows)


if __name__ == "__main__":
    main()
