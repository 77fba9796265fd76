"""Simulate a study on many workers: the real driver and sampler, with simulated time.

A trial costs the seconds that its objective reports, not those that pass; the driver costs the
seconds that it really takes between two segments (or a modelled number). So one laptop shows where
1,024 workers would wait for their driver.
"""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from optuna.samplers import BaseSampler

from hpo_lib.checks import check_positive
from hpo_lib.objective import Objective, Segment, SegmentResult
from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.study.catalog import trials_frame
from hpo_lib.study.driver import trial_seed
from hpo_lib.study.run import run_study
from hpo_lib.study.workers.base import Evaluation, Failure, evaluate
from hpo_lib.trials import StudyRecord, own_trials


@dataclass
class SimulatedWorkers:
    """Workers whose segments take as long as they report, by a clock that starts at 0.

    Args:
        slots: how many segments run at once.
        straggler_rate: the share of segments that take `straggler_factor` times as long.
        losses_per_hour: how often each worker is lost while it works (a Poisson process); it is
            back after `restart_seconds`.
        driver_seconds: what the driver spends per segment; None: what it really spends.
        clock: the seconds of the driver, `time.process_time` for those of its processor alone.
        seed: fixes stragglers and losses.
    """

    slots: int
    straggler_rate: float = 0.0
    straggler_factor: float = 4.0
    losses_per_hour: float = 0.0
    restart_seconds: float = 60.0
    driver_seconds: float | None = None
    clock: Callable[[], float] = time.perf_counter
    seed: int = 0
    now: float = field(default=0.0, init=False)
    driver_busy: float = field(default=0.0, init=False)
    lost: int = field(default=0, init=False)
    spans: list[tuple[float, float]] = field(default_factory=lambda: [], init=False)

    def __post_init__(self) -> None:
        check_positive(slots=self.slots, straggler_factor=self.straggler_factor)
        if not 0 <= self.straggler_rate <= 1 or self.losses_per_hour < 0:
            message = (
                "straggler_rate must be within 0 and 1 and losses_per_hour at least 0, "
                f"got {self.straggler_rate} and {self.losses_per_hour}"
            )
            raise ValueError(message)
        self._rng = np.random.default_rng(self.seed)
        self._idle = [(0.0, slot) for slot in range(self.slots)]
        self._events: list[tuple[float, int, int, float, Future[Evaluation], Evaluation]] = []
        self._mark: float | None = None

    def submit(
        self, objective: Objective, configuration: Configuration, segment: Segment
    ) -> Future[Evaluation]:
        """Evaluate at once; the future is done when the clock has gone on far enough."""
        self._charge_driver(self.driver_seconds)
        ready, slot = heapq.heappop(self._idle)
        outcome = evaluate(objective, configuration, segment, "").outcome
        start = max(self.now, ready)
        end = start + self._duration(outcome)
        ready = end
        if self.losses_per_hour:
            lost = start + self._rng.exponential(3600 / self.losses_per_hour)
            if lost < end:
                outcome = Failure("lost", "its simulated worker was lost")
                end, ready = lost, lost + self.restart_seconds
                self.lost += 1
        evaluation = Evaluation(outcome, f"simulated/{slot}", start, end)
        future: Future[Evaluation] = Future()
        heapq.heappush(self._events, (end, len(self.spans), slot, ready, future, evaluation))
        self.spans.append((start, end))
        self._mark = self.clock()  # the evaluation was not the driver's work
        return future

    def wait(self, running: Collection[Future[Evaluation]]) -> set[Future[Evaluation]]:
        """Set the clock to the next end of a segment, if that is still to come."""
        self._charge_driver(0.0)
        self.now = max(self.now, self._events[0][0])
        done: set[Future[Evaluation]] = set()
        while self._events and self._events[0][0] <= self.now:
            _, _, slot, ready, future, evaluation = heapq.heappop(self._events)
            heapq.heappush(self._idle, (ready, slot))
            future.set_result(evaluation)
            done.add(future)
        self._mark = self.clock()
        return done

    def close(self) -> None:
        """Nothing to end."""

    def _charge_driver(self, modelled: float | None) -> None:
        if self.driver_seconds is None:
            spent = 0.0 if self._mark is None else self.clock() - self._mark
        else:
            spent = modelled or 0.0
        self.now += spent
        self.driver_busy += spent

    def _duration(self, outcome: SegmentResult | Failure) -> float:
        seconds = sum(outcome.seconds) if isinstance(outcome, SegmentResult) else 0.0
        slow = self.straggler_rate and self._rng.random() < self.straggler_rate
        return seconds * self.straggler_factor if slow else seconds


class Simulation(NamedTuple):
    """A simulated study.

    `seconds` is its length; `utilisation` the share of the workers' time that was spent on
    segments, and `driver_share` the share of the time in which the driver was busy, both up to the
    moment when the last segment was sent out: after that there is nothing left to do for the rest.
    `lost` counts segments whose worker was lost.
    """

    study: optuna.Study
    workers: int
    seconds: float
    utilisation: float
    driver_share: float
    lost: int


def simulate(
    objective: Objective,
    space: SearchSpace,
    strategy: str | BaseSampler,
    n_trials: int,
    workers: int | SimulatedWorkers,
    **options: Any,
) -> Simulation:
    """Run a study in simulated time.

    Args:
        objective: one that reports the seconds of its epochs without taking them, as those of
            `replay` do.
        space: the search space.
        strategy: a name out of `STRATEGIES`, or any Optuna sampler.
        n_trials: the budget.
        workers: how many; or workers with stragglers, losses or a modelled driver.
        **options: those of `run_study`; without a `storage` the study is kept in memory, and a
            file costs the driver what it would cost it for real.
    """
    pool = workers if isinstance(workers, SimulatedWorkers) else SimulatedWorkers(workers)
    if pool.spans:
        message = f"workers must be new: these have simulated {len(pool.spans)} segments already"
        raise ValueError(message)
    own: dict[str, Any] = {"name": "simulated", "storage": "memory", "max_failures": n_trials + 1}
    study = run_study(objective, space, strategy, n_trials, workers=pool, **own | options)
    spans = np.array(pool.spans).reshape(-1, 2)
    last = spans[:, 0].max(initial=0.0)
    busy = (np.minimum(spans[:, 1], last) - spans[:, 0]).sum()
    return Simulation(
        study,
        pool.slots,
        float(spans[:, 1].max(initial=0.0)),
        float(busy / (pool.slots * last)) if last else 1.0,
        min(pool.driver_busy / last, 1.0) if last else 0.0,
        pool.lost,
    )


@dataclass(frozen=True)
class RecordedObjective:
    """The trainings of one study, looked up by trial: what it would take on other workers.

    Only for strategies whose choices do not depend on results (`random`, `sobol`, `grid`) and for
    the same seed: then trial n is the same training on any number of workers.
    """

    study: optuna.Study

    @property
    def budget(self) -> int:
        """Epochs of a trial that runs to its end."""
        return int(_settings(self.study)["budget"])

    @property
    def settings(self) -> dict[str, Any]:
        """The study's name."""
        return {"recorded": self.study.study_name}

    def __call__(self, configuration: Configuration, segment: Segment) -> SegmentResult:
        """Return what was recorded of the trial with the segment's seed."""
        seed = int(_settings(self.study)["seed"])
        for trial in own_trials(self.study):
            if trial_seed(seed, trial.number) == segment.seed:
                epochs = slice(segment.start, segment.stop)
                error, seconds = (
                    curve[epochs]
                    for curve in (trial.record.validation_error, trial.record.seconds)
                )
                return SegmentResult(error, error, error, seconds, segment.checkpoint)
        message = f"study {self.study.study_name!r} has no trial with seed {segment.seed}"
        raise LookupError(message)


def _settings(study: optuna.Study) -> dict[str, Any]:
    return StudyRecord.of(study).settings


def scaling_frame(simulations: Sequence[Simulation]) -> pd.DataFrame:
    """One row per number of workers; the speed-up is the recorded seconds of training per second.

    Not against one worker, which would have trained other configurations.
    """
    frame = pd.DataFrame([one._asdict() for one in simulations]).drop(columns="study")
    trials = [trials_frame(one.study) for one in simulations]
    frame["best"] = [one["value"].min() for one in trials]
    frame["speed_up"] = [one["seconds"].sum() for one in trials] / frame["seconds"]
    return frame
