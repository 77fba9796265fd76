"""Train chosen configurations with the same fresh seeds, and test them once, after the search.

Below a folder each configuration has its own, named by its label: a checkpoint and
TensorBoard scalars per seed, and `trainings.jsonl` with one JSON object per finished training.
Beside them `test_final` writes
`final.csv`, a row per training, and `predictions.csv`, a row per test image.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from hpo_lib.checks import check_different, check_whole
from hpo_lib.exceptions import DataError
from hpo_lib.files import atomic_write_text
from hpo_lib.formatting import format_changes
from hpo_lib.objective import CURVES, SegmentResult
from hpo_lib.processes.pool import run_all
from hpo_lib.progress import Progress
from hpo_lib.space.values import Configuration
from hpo_lib.training.config import DataConfig, TrainingConfig, restore
from hpo_lib.training.loaders import ImageData, Part, load_test_data, read_part
from hpo_lib.training.objective import TrainingObjective
from hpo_lib.training.trainer import Predictions, evaluate, train

_RECORD = "trainings.jsonl"
_COLUMNS = ("configuration", "seed", "epochs", "validation_error", "seconds")
_TEST_COLUMNS = (*_COLUMNS[:4], "test_error", "seconds", "n_test")


def train_final(
    objective: TrainingObjective,
    configuration: Configuration,
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
        objective: the one of the search, also with a network of your own.
        configuration: its hyperparameters; "epochs" among them trains longer than the search.
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
        >>> from hpo_lib import DataConfig, TrainingConfig, TrainingObjective
        >>> config = TrainingConfig(n_filters=2, epochs=1)
        >>> objective = TrainingObjective(config, DataConfig("digits", n_train=200))
        >>> frame = train_final(objective, {"lr": 0.1}, "tuned", [0, 1], tempfile.mkdtemp())
        >>> frame["seed"].tolist()
        [0, 1]
    """
    seeds = [check_whole("seeds", seed, 0) for seed in seeds]
    check_different("seeds", seeds)
    check_whole("workers", workers, 1)
    if not re.fullmatch(r"[\w-]+", label):
        message = f"label must be letters, digits, - and _, got {label!r}"
        raise ValueError(message)

    config = objective.configured(configuration)
    data = objective.load_images(config)
    place = Path(folder) / label
    # What the trainings of a label share, beside their settings.
    functions = objective.versions()
    own = {"values": dict(configuration), "functions": functions, "images": data.sha256}
    components = objective.components(config, configuration)
    identity = {**components.identity, **functions, "images": data.sha256}
    identity.pop("seed", None)
    records = _matching(place, identity, overwrite=overwrite)

    finished = {record["seed"] for record in records}
    missing = [seed for seed in seeds if seed not in finished]
    n_before = (len(seeds) - len(missing)) * config.epochs
    with Progress(len(seeds) * config.epochs, done=n_before, enabled=progress) as shown:
        run = partial(_train_seed, objective, configuration, place)
        for seed, result in run_all(run, missing, workers, shown):
            seeded = replace(config, seed=seed)
            records.append({**_record(label, seeded, result), **own})
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


def test_final(
    folder: str | Path,
    objective: TrainingObjective,
    test: Any = None,  # noqa: PT028 this is no test of pytest's
) -> pd.DataFrame:
    """Evaluate all kept trainings on the test images, with the weights after the last epoch.

    Nothing else in this package reads test images but `load_test_data`, which this calls.

    Args:
        folder: keeps the trainings of all labels; gets `final.csv` and `predictions.csv`.
        objective: the one of the trainings.
        test: test images, as `ImageData.from_dataset` takes them, for an objective with images of
            your own; None: the test part of its `data`.

    Returns:
        Columns `configuration` (the label), `seed`, `epochs`, `validation_error`, `test_error`
        (both are NaN where a training diverged), `seconds` and `n_test`.

    Raises:
        DataError: there is no training, or the objective has other images than theirs; or it has
            images of your own, and there are none for the test.
        ValueError: the labels differ in seeds, epochs or images, and do not compare, or the
            objective has another network than theirs.
        CheckpointError: a checkpoint is damaged.
    """
    folder = Path(folder)
    records = _all_records(folder)
    _check_comparable(records)

    # Before a test image is read: are these the images that they were trained with?
    images = objective.load_images(objective.config)
    if images.sha256 != records[0]["images"]:
        message = f"objective must have the images of the trainings in {folder}, got others"
        raise DataError(message)
    functions = objective.versions()
    if any(record.get("functions", {}) != functions for record in records):
        message = f"objective must have the functions of the trainings in {folder}, got others"
        raise ValueError(message)

    part = _test_part(objective, test)
    predictions = pd.DataFrame({"label": part.labels.numpy()})
    errors: list[float] = []
    for record in records:
        if record["status"] != "completed":
            errors.append(math.nan)
            continue
        tested = _test_one(folder, record, objective, len(images.classes), part)
        predictions[f"{record['configuration']} seed {record['seed']}"] = tested.predicted
        errors.append(tested.error)

    frame = _frame(records).assign(test_error=errors, n_test=len(part))
    frame = frame.reindex(columns=_TEST_COLUMNS)
    atomic_write_text(folder / "predictions.csv", predictions.to_csv(index=False))
    atomic_write_text(folder / "final.csv", frame.to_csv(index=False))
    return frame


def _test_part(objective: TrainingObjective, test: Any) -> Part:
    """Return the test images that an objective needs."""
    data = objective.data
    if isinstance(data, DataConfig) and test is None:
        return load_test_data(data)
    if isinstance(data, ImageData) and test is not None:
        return read_part(test)
    rule = "test must be given for images of your own, and for those alone"
    message = f"{rule}, got {type(test).__name__} for {type(data).__name__}"
    raise DataError(message)


def _train_seed(
    objective: TrainingObjective,
    configuration: Configuration,
    place: Path,
    seed: int,
    shown: Progress,
) -> SegmentResult:
    config = replace(objective.configured(configuration), seed=seed)
    return train(
        config,
        objective.load_images(config),
        save_to=_checkpoint(place, seed),
        log_folder=place / "tensorboard" / f"seed_{seed}",
        components=objective.components(config, configuration),
        progress=shown,
    )


def _test_one(
    folder: Path, record: dict[str, Any], objective: TrainingObjective, n_classes: int, test: Part
) -> Predictions:
    """Evaluate one kept training on the test images.

    Args:
        folder: keeps the trainings of all labels.
        record: of the training.
        objective: builds the network where it is one of the user's.
        n_classes: number of logits.
        test: images and labels.
    """
    place = folder / record["configuration"]
    config = restore(TrainingConfig, record["config"], place / _RECORD)
    network = None
    if objective.network is not None:
        network = objective.network(record["values"], test.images.shape[1], n_classes)
    checkpoint = _checkpoint(place, record["seed"])
    return evaluate(config, checkpoint, test, network=network)


def _record(label: str, config: TrainingConfig, result: SegmentResult) -> dict[str, Any]:
    is_completed = result.status == "completed"
    return {
        "configuration": label,
        "seed": config.seed,
        "epochs": config.epochs,
        "validation_error": result.validation_error[-1] if is_completed else None,
        "seconds": sum(result.seconds),
        "status": result.status,
        "curves": {name: getattr(result, name) for name in CURVES},
        "config": asdict(config),
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
    except (ValueError, RecursionError) as error:
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


def _matching(place: Path, identity: dict[str, Any], *, overwrite: bool) -> list[dict[str, Any]]:
    """Return the records of a label; others than the wanted ones are left out, or an error."""
    matching: list[dict[str, Any]] = []
    for record in _read_records(place):
        changed = _changes(record, identity)
        if not changed:
            matching.append(record)
        elif not overwrite:
            message = (
                f"{place} keeps trainings of another configuration: {', '.join(changed)}; "
                "delete it, or choose another label"
            )
            raise ValueError(message)
    return matching


def _changes(record: dict[str, Any], identity: dict[str, Any]) -> list[str]:
    """Return what differs between a recorded training and a wanted one, as text."""
    functions = record.get("functions", {})
    own = {**record["values"], **functions} if functions else {}
    defaults = asdict(TrainingConfig())  # of fields that an earlier version did not have
    recorded = {**defaults, **record["config"], **own, "images": record["images"]}
    return format_changes(recorded, identity, {**identity, **own})


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
    frame = pd.DataFrame(records, columns=list(_COLUMNS)).astype({"validation_error": float})
    curves = [{**record["curves"], "status": record["status"]} for record in records]
    return frame.assign(curves=list(map(SegmentResult.from_dict, curves)))
