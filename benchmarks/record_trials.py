"""Train many configurations of the `small` preset on CIFAR-10 and record every epoch, for replay.

Configurations follow a scrambled Sobol sequence behind the default one, so that the record is
spread evenly over the space however far it has grown. Every other configuration is trained with
three seeds. The record is saved after each training; run again, the script goes on behind it.
`--merge` adds what the live searches of `replay_validity.py` trained.

The test errors are for those who read the record; no replayed strategy is shown them.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import multiprocessing
import platform
import signal
import sys
import tempfile
import time
import zlib
from collections import Counter
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pebble import ProcessPool
from scipy.stats import qmc

from hpo_lib.files import atomic_write_text
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.training.config import DataConfig, TrainingConfig
from hpo_lib.training.hardware import autocast, cpu_instructions
from hpo_lib.training.loaders import load_data, load_test_data
from hpo_lib.training.objective import TrainingObjective
from hpo_lib.training.trainer import evaluate, train

CURVES = (
    "train_loss",
    "validation_loss",
    "validation_error",
    "test_error",
    "seconds",
    "cpu_seconds",
)
REPEATED, SEEDS = 2, 3
FIRST_MERGED = 1000
"""The number of the first configuration that is not of the Sobol sequence."""


class Job(NamedTuple):
    """One training of the record."""

    config_id: int
    seed: int
    configuration: Configuration


def parse() -> argparse.Namespace:
    """Read the command line; --quick trains two configurations on the digits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="cifar10", help="digits, cifar10 or folder:PATH")
    parser.add_argument("--data-name", help="what the record calls the data (default: --data)")
    parser.add_argument("--configurations", type=int, default=320)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--minutes", type=float, help="start no training after so many minutes")
    parser.add_argument(
        "--output", type=Path, default=Path("results/reference/resnet8_record.csv")
    )
    parser.add_argument("--merge", type=Path, help="folder of trainings of live searches")
    parser.add_argument("--quick", action="store_true")
    arguments = parser.parse_args()
    arguments.sizes = {"n_train": 5000, "n_validation": 2000, "n_test": 2000}
    if arguments.quick:
        arguments.data, arguments.configurations, arguments.epochs = "digits", 2, 2
        arguments.sizes, arguments.output = {}, Path("results/quick_record.csv")
    return arguments


def jobs(space: SearchSpace, n_configurations: int) -> list[Job]:
    """Return the trainings in the order in which they are made."""
    sobol = qmc.Sobol(len(space.searched), rng=0).random_base2((n_configurations - 1).bit_length())
    drawn = [space.default_configuration(), *(space.from_unit(u) for u in sobol.tolist())]
    return [
        Job(number, seed, configuration)
        for number, configuration in enumerate(drawn[:n_configurations])
        for seed in range(SEEDS if number % REPEATED == 0 else 1)
    ]


def record(job: Job, config: TrainingConfig, data_config: DataConfig) -> dict[str, Any]:
    """Train epoch by epoch, so that each epoch's weights see the test images once."""
    # other seeds for other configurations: what they share by chance must not look like a trend
    config = replace(
        config.with_configuration(job.configuration), seed=SEEDS * job.config_id + job.seed
    )
    numbers = {"id": job.config_id, "seed": job.seed, **job.configuration}
    return {**numbers, **_cells(curves_of(config, data_config)), "chosen_by": "sobol"}


def curves_of(config: TrainingConfig, data_config: DataConfig) -> dict[str, list[float]]:
    """All curves of one training; those of one that diverged are shorter."""
    torch.set_num_threads(1)
    data, test = load_data(data_config), load_test_data(data_config)
    curves: dict[str, list[float]] = {name: [] for name in CURVES}
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = None
        for epoch in range(1, config.epochs + 1):
            began, path = time.process_time(), Path(folder) / f"{epoch % 2}.pt"
            result = train(config, data, stop=epoch, checkpoint=checkpoint, save_to=path)
            if result.status == "diverged":
                break
            curves["cpu_seconds"].append(time.process_time() - began)
            for name in ("train_loss", "validation_loss", "validation_error", "seconds"):
                curves[name] += getattr(result, name)
            curves["test_error"].append(evaluate(config, path, test).error)
            checkpoint = path
    return curves


def _cells(curves: dict[str, list[float]]) -> dict[str, str]:
    cells = {name: " ".join(f"{value:.5g}" for value in curve) for name, curve in curves.items()}
    return {**cells, "machine": machine()}


@dataclass(frozen=True)
class RecordingObjective:
    """Trains as a search asks for it and keeps each training, test errors too, for the record.

    What was trained once, for whichever search, is read again.
    """

    config: TrainingConfig
    data: DataConfig
    folder: Path
    chosen_by: str

    @property
    def budget(self) -> int:
        """Epochs of a full training."""
        return self.config.epochs

    @property
    def settings(self) -> dict[str, Any]:
        """Those of the training objective."""
        return TrainingObjective(self.config, self.data).settings

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Train to the end, whatever the segment."""
        key = json.dumps([configuration, segment.seed], sort_keys=True)
        file = self.folder / f"{zlib.crc32(key.encode()):08x}.json"
        if not file.exists():
            config = replace(self.config.with_configuration(configuration), seed=segment.seed)
            row = {"seed": segment.seed, **configuration, **_cells(curves_of(config, self.data))}
            row["chosen_by"] = self.chosen_by
            self.folder.mkdir(parents=True, exist_ok=True)
            atomic_write_text(file, json.dumps(row, indent=1) + "\n")
        row = json.loads(file.read_text())
        names = ("train_loss", "validation_loss", "validation_error", "seconds")
        curves = [tuple(map(float, row[name].split())) for name in names]
        whole = len(curves[0]) == self.budget
        return SegmentResult(*curves, status="completed" if whole else "diverged")


def merged(rows: list[dict[str, Any]], folder: Path) -> list[dict[str, Any]]:
    """Return the rows, and the trainings in the folder that are not among them."""
    known = {(row["seed"], row["validation_loss"]) for row in rows}
    number = max([FIRST_MERGED, *(int(row["id"]) + 1 for row in rows)])
    for file in sorted(folder.glob("*.json")):
        row = json.loads(file.read_text())
        if (str(row["seed"]), row["validation_loss"]) not in known:
            rows = [*rows, {"id": number, **row}]
            number += 1
    return rows


def machine() -> str:
    """Describe what seconds depend on most: the instructions and the precision of this CPU."""
    capability = torch.backends.cpu.get_cpu_capability()
    kind = "AMX" if "amx_tile" in cpu_instructions() else capability
    with autocast(TrainingConfig(), torch.device("cpu"))():
        return f"{kind} {'bfloat16' if torch.is_autocast_enabled('cpu') else 'float32'}"


def read(path: Path) -> list[dict[str, Any]]:
    """Read the rows recorded so far."""
    rows = list(csv.DictReader(path.open(newline=""))) if path.exists() else []
    return [{**row, "chosen_by": row.get("chosen_by", "sobol")} for row in rows]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Write all rows, sorted by configuration and seed."""
    ordered = sorted(rows, key=lambda row: (int(row["id"]), int(row["seed"])))
    text = io.StringIO()
    writer = csv.DictWriter(text, ordered[0].keys(), lineterminator="\n")
    writer.writeheader()
    writer.writerows(ordered)
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write_text(path, text.getvalue())


def provenance(
    arguments: argparse.Namespace, space: SearchSpace, config: TrainingConfig, data: DataConfig
) -> dict[str, Any]:
    """Return the versions, settings and data that the record depends on."""
    source = arguments.data_name or arguments.data
    return {
        "space": space.to_yaml(comments=False),
        "budget": config.epochs,
        "training": asdict(config),
        "data": {**asdict(data), "source": source, "root": None},
        "seconds": "training and validation, one thread; cpu_seconds count saving too",
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "hpo_lib": version("hpo-lib"),
        },
    }


def save(
    path: Path, rows: list[dict[str, Any]], space: SearchSpace, about: dict[str, Any]
) -> None:
    """Write all rows, and beside them what is known about them and how they grew."""
    write(path, rows)
    repeats = Counter(tuple(str(row[one.name]) for one in space.searched) for row in rows)
    grown = {
        "seeds": f"{sum(n > 1 for n in repeats.values())} configurations have several, "
        "the others one",
        "chosen_by": "the Sobol sequence of the script, or the live search of a strategy",
        "machine": "instructions and precision of the CPU, which changed as the record grew",
        "updated": datetime.now(UTC).date().isoformat(),
    }
    atomic_write_text(path.with_suffix(".json"), json.dumps(about | grown, indent=2) + "\n")


def main() -> None:
    """Train what is missing."""
    arguments = parse()
    space = SearchSpace.preset("small")
    config = TrainingConfig(depth=8, epochs=arguments.epochs, flip=arguments.data != "digits")
    data = DataConfig(arguments.data, **arguments.sizes)
    rows = read(arguments.output)
    if arguments.merge is not None:
        about = json.loads(arguments.output.with_suffix(".json").read_text())
        save(arguments.output, merged(rows, arguments.merge), space, about)
        return
    about = provenance(arguments, space, config, data)
    made = {(int(row["id"]), int(row["seed"])) for row in rows}
    wanted = jobs(space, arguments.configurations)
    missing = [job for job in wanted if (job.config_id, job.seed) not in made]
    began = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    pool = ProcessPool(arguments.workers, context=multiprocessing.get_context("spawn"))
    try:
        running: set[Future[dict[str, Any]]] = set()
        while missing or running:
            in_time = (
                arguments.minutes is None or time.monotonic() - began < 60 * arguments.minutes
            )
            while in_time and missing and len(running) < arguments.workers:
                running.add(pool.schedule(record, (missing.pop(0), config, data)))
            if not running:
                break
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                row = future.result()
                rows.append(row)
                save(arguments.output, rows, space, about)
                final = str(row["validation_error"]).split()
                print(
                    f"{len(rows):4d} of {len(wanted)}  configuration {row['id']}, seed "
                    f"{row['seed']}: error {final[-1] if final else 'diverged'}",
                    flush=True,
                )
    finally:
        pool.stop()
        pool.join()
    print(json.dumps({"trainings": len(rows), "wanted": len(wanted)}))


if __name__ == "__main__":
    main()
