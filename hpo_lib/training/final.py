"""Train chosen configurations with the same fresh seeds, and test them once, after the search.

Below a folder each configuration has its own, named by its label: a checkpoint and
TensorBoard scalars per seed, and `trainings.jsonl` with one JSON object per finished training.
Beside them `test_final` writes
`final.csv`, a row per training, and `predictions.csv`, a row per test image.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, replace
from functools import partial
from multiprocessing import get_context
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from threading import Thread
from typing import Any

import pandas as pd
import torch

from hpo_lib.checks import check_whole
from hpo_lib.exceptions import DataError
from hpo_lib.files import atomic_write_text
from hpo_lib.objective import CURVES, SegmentResult
from hpo_lib.process_guard import end_with
from hpo_lib.progress import Progress
from hpo_lib.training.checkpoints import TRAJECTORY
from hpo_lib.training.config import DataConfig, TrainingConfig, restore
from hpo_lib.training.hardware import choose_device
from hpo_lib.training.loaders import load_test_data
from hpo_lib.training.objective import load_cached
from hpo_lib.training.trainer import evaluate, train

_RECORD = "trainings.jsonl"
_COLUMNS = ("configuration", "seed", "epochs", "validation_error", "seconds")
_TEST_COLUMNS = (*_COLUMNS[:4], "test_error", "seconds", "n_test")


def train_final(
    config: TrainingConfig,
    data_config: DataConfig,
    label: str,
    seeds: Sequence[int],
    folder: str | Path,
    *,
    overwrite: bool = False,
    workers: int = 1,
    progress: bool = True,
) -> pd.DataFrame:
    """Train one configuration with each seed, and keep the networks.

    Called again, only seeds that have no finished training are trained.

    Args:
        config: hyperparameters and epochs; its seed is replaced.
        data_config: choice of the images and of their split.
        label: name of the configuration and of its folder: "default" or "tuned".
        seeds: one training each; a comparison needs the same ones for all labels.
        folder: keeps the trainings of all labels.
        overwrite: trainings of this label with another configuration or other images are replaced,
            as when a search went on and found a better one; otherwise they are an error.
        workers: trainings at once, each in a process of its own when there are several. On a CPU
            that is faster than one training on all cores.
        progress: show a bar with the time left; in a log, a line now and then.

    Returns:
        The rows of `final_trainings` for this label and these seeds.

    Raises:
        ValueError: the label is no name of a folder, the seeds are none or not different, or the
            folder has trainings of this label with another configuration or other images.
        DataError: the images cannot be read.

    Example:
        >>> import tempfile
        >>> from hpo_lib import DataConfig, TrainingConfig
        >>> config = TrainingConfig(n_filters=2, epochs=1)
        >>> data = DataConfig("digits", n_train=200)
        >>> frame = train_final(config, data, "default", [0, 1], tempfile.mkdtemp())
        >>> frame["seed"].tolist()
        [0, 1]
    """
    seeds = _check_seeds(seeds)
    check_whole("workers", workers, 1)
    if not re.fullmatch(r"[\w-]+", label):
        message = f"label must be letters, digits, - and _, got {label!r}"
        raise ValueError(message)

    data = load_cached(data_config, choose_device(config.device))
    place = Path(folder) / label
    records = _read_records(place)
    identity = {**_identity(config), "images": data.sha256}
    if overwrite:
        records = [record for record in records if not _changes(record, identity)]
    for record in records:
        _check_same(record, identity, place)

    finished = {record["seed"] for record in records}
    missing = [seed for seed in seeds if seed not in finished]
    n_before = (len(seeds) - len(missing)) * config.epochs
    with Progress(len(seeds) * config.epochs, done=n_before, enabled=progress) as shown:
        run = partial(_train_seed, config, data_config, place)
        for seed, result in _run_all(run, missing, workers, shown):
            records.append(_record(label, seed, config, result) | {"images": data.sha256})
            lines = [json.dumps(record, allow_nan=False) for record in records]
            place.mkdir(parents=True, exist_ok=True)
            atomic_write_text(place / _RECORD, "\n".join(lines) + "\n")

    by_seed = {record["seed"]: record for record in records}
    return _frame([by_seed[seed] for seed in seeds])


def final_trainings(folder: str | Path) -> pd.DataFrame:
    """Return one row per training that `train_final` has kept.

    Args:
        folder: keeps the trainings of all labels.

    Returns:
        Columns `configuration` (the label), `seed`, `epochs`, `validation_error` after the last
        epoch (NaN where the training diverged), `seconds`, and `curves`, a `SegmentResult`.

    Raises:
        DataError: there is no training.
    """
    return _frame(_all_records(Path(folder)))


def test_final(folder: str | Path, data_config: DataConfig) -> pd.DataFrame:
    """Evaluate all kept trainings on the test images, with the weights after the last epoch.

    Nothing else in this package reads test images but `load_test_data`, which this calls.

    Args:
        folder: keeps the trainings of all labels; gets `final.csv` and `predictions.csv`.
        data_config: choice of the images and of their split.

    Returns:
        Columns `configuration` (the label), `seed`, `epochs`, `validation_error`, `test_error`
        (both are NaN where a training diverged), `seconds` and `n_test`.

    Raises:
        DataError: there is no training, or `data_config` gives other images than theirs.
        ValueError: the labels differ in seeds, epochs or images, and do not compare.
        CheckpointError: a checkpoint is damaged.
    """
    folder = Path(folder)
    records = _all_records(folder)
    _check_comparable(records)

    # Before a test image is read: are these the images that they were trained with?
    images = load_cached(data_config, choose_device("cpu")).sha256
    if images != records[0]["images"]:
        message = f"data_config must choose the images of the trainings in {folder}, got others"
        raise DataError(message)

    test = load_test_data(data_config)
    predictions = pd.DataFrame({"label": test.labels.numpy()})
    errors: list[float] = []
    for record in records:
        if record["status"] != "completed":
            errors.append(math.nan)
            continue
        place = folder / record["configuration"]
        config = restore(TrainingConfig, record["config"], place / _RECORD)
        checkpoint = _checkpoint(place, record["seed"])
        tested = evaluate(config, checkpoint, test, weights="last")
        predictions[f"{place.name} seed {record['seed']}"] = tested.predicted
        errors.append(tested.error)

    frame = _frame(records).assign(test_error=errors, n_test=len(test))
    frame = frame.reindex(columns=_TEST_COLUMNS)
    atomic_write_text(folder / "predictions.csv", predictions.to_csv(index=False))
    atomic_write_text(folder / "final.csv", frame.to_csv(index=False))
    return frame


def _check_seeds(seeds: Sequence[int]) -> list[int]:
    """Return the seeds as Python's integers; refuse none, and the same one twice."""
    checked = [check_whole("seeds", seed, 0) for seed in seeds]
    if not checked or len(set(checked)) < len(checked):
        message = f"seeds must be at least one and all different, got {checked}"
        raise ValueError(message)
    return checked


_Training = Callable[[int, Progress], SegmentResult]
_Epochs = SimpleQueue[Callable[[], str] | None]


def _train_seed(
    config: TrainingConfig, data_config: DataConfig, place: Path, seed: int, shown: Progress
) -> SegmentResult:
    return train(
        replace(config, seed=seed),
        load_cached(data_config, choose_device(config.device)),
        save_to=_checkpoint(place, seed),
        log_folder=place / "tensorboard" / f"seed_{seed}",
        progress=shown,
    )


def _run_all(
    run: _Training, seeds: list[int], workers: int, shown: Progress
) -> Iterator[tuple[int, SegmentResult]]:
    """Yield each seed with its result when its training has ended.

    Args:
        run: trains with a seed, and counts its epochs.
        seeds: one training each.
        workers: trainings at once.
        shown: gets a step for each epoch.
    """
    if min(workers, len(seeds)) <= 1:
        for seed in seeds:
            yield seed, run(seed, shown)
        return

    spawn = get_context("spawn")  # fork would copy the threads' locks
    epochs: _Epochs = spawn.SimpleQueue()
    reader = Thread(target=_show_epochs, args=(epochs, shown))
    reader.start()
    pool = ProcessPoolExecutor(workers, spawn, _start_process, (epochs, os.getpid()))
    try:
        trainings = {pool.submit(_run_in_process, run, seed): seed for seed in seeds}
        for training in as_completed(trainings):
            yield trainings[training], training.result()
    finally:
        pool.shutdown(cancel_futures=True)
        epochs.put(None)
        reader.join()


_epochs: list[_Epochs] = []  # in a process of a pool: where its epochs are counted


def _start_process(epochs: _Epochs, parent: int) -> None:
    torch.set_num_threads(1)
    end_with(parent)
    _epochs.append(epochs)


def _run_in_process(run: _Training, seed: int) -> SegmentResult:
    return run(seed, _RemoteProgress(_epochs[0]))


def _show_epochs(epochs: _Epochs, shown: Progress) -> None:
    for describe in iter(epochs.get, None):
        shown.advance(describe)


class _RemoteProgress(Progress):
    """Progress that another process shows.

    Args:
        epochs: what `_show_epochs` reads.
    """

    def __init__(self, epochs: _Epochs) -> None:
        super().__init__(0, enabled=False)
        self._epochs = epochs

    def advance(self, describe: Callable[[], str], steps: int = 1) -> None:
        """Hand a step over."""
        self._epochs.put(describe)


def _identity(config: TrainingConfig) -> dict[str, Any]:
    """Return the fields that trainings of one label share."""
    return {name: getattr(config, name) for name in TRAJECTORY if name != "seed"}


def _record(
    label: str, seed: int, config: TrainingConfig, result: SegmentResult
) -> dict[str, Any]:
    curves = {name: list(getattr(result, name)) for name in CURVES}
    is_completed = result.status == "completed"
    return {
        "configuration": label,
        "seed": seed,
        "epochs": config.epochs,
        "validation_error": result.validation_error[-1] if is_completed else None,
        "seconds": sum(result.seconds),
        "status": result.status,
        "curves": curves,
        "config": asdict(replace(config, seed=seed)),
    }


def _checkpoint(place: Path, seed: int) -> Path:
    return place / f"seed_{seed}.pt"


def _read_records(place: Path) -> list[dict[str, Any]]:
    """Return the records of a label whose networks are still there."""
    file = place / _RECORD
    if not file.exists():
        return []
    try:
        records = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    except ValueError as error:
        message = f"{file} is damaged, each line must be JSON: {error}"
        raise DataError(message) from error
    return [
        record
        for record in records
        if record["status"] != "completed" or _checkpoint(place, record["seed"]).exists()
    ]


def _all_records(folder: Path) -> list[dict[str, Any]]:
    places = sorted(path.parent for path in folder.glob(f"*/{_RECORD}"))
    records = [record for place in places for record in _read_records(place)]
    if not records:
        message = f"{folder} has no final training: train_final writes them (notebooks 02 and 07)"
        raise DataError(message)
    return records


def _changes(record: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """Return what differs between a recorded training and a wanted one, as text."""
    defaults = asdict(TrainingConfig())  # of fields that an earlier version did not have
    recorded = {**defaults, **record["config"], "images": record["images"]}
    return [
        f"{name} is {recorded.get(name)!r} there and {value!r} here"
        for name, value in identity.items()
        if recorded.get(name) != value
    ]


def _check_same(record: dict[str, Any], identity: dict[str, Any], place: Path) -> None:
    """Refuse to train a label with another configuration or other images than before."""
    changed = _changes(record, identity)
    if changed:
        message = (
            f"{place} keeps trainings of another configuration: {', '.join(changed)}; "
            "delete it, or choose another label"
        )
        raise ValueError(message)


def _check_comparable(records: list[dict[str, Any]]) -> None:
    """Refuse labels that were not trained alike: their difference would not be due to them."""
    frame = pd.DataFrame(records)
    groups = frame.groupby("configuration")
    for column in ("seed", "epochs", "images"):
        found = {label: sorted(set(group[column])) for label, group in groups}
        different = {str(values) for values in found.values()}
        if len(different) > 1:
            texts = [f"{label} has {values}" for label, values in found.items()]
            message = f"{column} must be the same for all configurations: {', '.join(texts)}"
            raise ValueError(message)


def _frame(records: list[dict[str, Any]]) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    for record in records:
        row = {name: record[name] for name in _COLUMNS}
        curves: dict[str, Any] = {name: tuple(record["curves"][name]) for name in CURVES}
        row["curves"] = SegmentResult(**curves, status=record["status"])
        rows.append(row)
    return pd.DataFrame(rows).astype({"validation_error": float})
