from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hpo_lib.comparison.simulation import (
    RecordedObjective,
    SimulatedWorkers,
    plot_scaling,
    plot_wall_clock,
    scaling_frame,
    simulate,
    wall_clock_data,
)
from hpo_lib.objective import Segment, SegmentResult
from hpo_lib.study.catalog import trials_frame
from hpo_lib.study.driver import trial_seed
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, bowl, record_of


@dataclass(frozen=True)
class Timed:
    """`bowl` over two epochs; trial n reports `durations[n]` seconds."""

    durations: tuple[float, ...]
    budget: int = 2

    @property
    def settings(self) -> dict[str, Any]:
        return {}

    def __call__(self, configuration, segment: Segment) -> SegmentResult:
        numbers = {trial_seed(0, n): n for n in range(len(self.durations))}
        n = segment.stop - segment.start
        seconds = self.durations[numbers[segment.seed]] / 2
        values = (bowl(configuration),) * n
        return SegmentResult(values, values, values, (seconds,) * n, segment.checkpoint)


def run(durations, workers, strategy="random", **options):
    durations = tuple(map(float, durations))
    return simulate(Timed(durations), TOY_SPACE, strategy, len(durations), workers, **options)


def test_one_worker_needs_the_sum_of_all():
    found = run([5, 1, 3], SimulatedWorkers(1, driver_seconds=0.5))
    assert found.seconds == 5 + 1 + 3 + 3 * 0.5
    assert found.utilisation == pytest.approx(6 / 7.5)
    assert found.driver_share == pytest.approx(1.5 / 7.5)


def test_two_workers_take_the_next_trial_as_soon_as_they_are_free():
    found = run([5, 1, 3, 4], SimulatedWorkers(2, driver_seconds=0))
    frame = trials_frame(found.study)
    assert list(frame.started) == [0, 0, 1, 4]
    assert list(frame.finished) == [5, 1, 4, 8]
    assert (found.seconds, found.utilisation) == (8, 1)
    assert list(frame.worker) == [f"simulated/{slot}" for slot in (0, 1, 1, 1)]


@settings(max_examples=15, deadline=None)
@given(
    st.lists(st.floats(0.1, 100), min_size=1, max_size=12),
    st.integers(1, 6),
    st.floats(0, 1),
    st.sampled_from([(), (1,)]),
)
def test_a_schedule_keeps_grahams_bounds(durations, slots, driver_seconds, rungs):
    pool = SimulatedWorkers(slots, driver_seconds=driver_seconds)
    found = run(durations, pool, rungs=rungs)
    decided = driver_seconds * len(durations) * (1 + len(rungs))
    assert len(pool.spans) == len(durations) * (1 + len(rungs))
    assert found.seconds >= max(*durations, sum(durations) / slots) - 1e-9
    assert found.seconds <= sum(durations) / slots + max(durations) + decided + 1e-9
    frame = trials_frame(found.study)
    for _, mine in frame.groupby("worker") if not rungs else []:
        times = mine.sort_values("started")
        assert (times.started.to_numpy()[1:] >= times.finished.to_numpy()[:-1]).all()


@pytest.mark.parametrize("strategy", ["random", "bayes"])
def test_the_real_loop_is_driven(strategy):
    simulated = run([1] * 8, 1, strategy).study
    options = {"name": "real", "storage": "memory", "workers": 0}
    real = run_study(Timed((1.0,) * 8), TOY_SPACE, strategy, 8, **options)
    assert [t.params for t in simulated.trials] == [t.params for t in real.trials]
    assert [t.value for t in simulated.trials] == [t.value for t in real.trials]


def test_the_real_driver_is_charged():
    pool = SimulatedWorkers(1)
    found = run([1] * 5, pool)
    assert found.seconds == pytest.approx(5 + pool.driver_busy, abs=0.5)
    assert pool.driver_busy > 0


@pytest.mark.slow
def test_a_slow_driver_keeps_many_workers_waiting():
    found = run([10] * 300, SimulatedWorkers(100, driver_seconds=1))
    assert found.utilisation == pytest.approx(10 / 100, rel=0.05)
    assert found.driver_share == pytest.approx(1)


def test_stragglers_take_longer():
    slow = run([2] * 4, SimulatedWorkers(1, 1.0, straggler_factor=3, driver_seconds=0))
    assert slow.seconds == 4 * 2 * 3


def test_trials_of_lost_workers_run_again():
    pool = SimulatedWorkers(4, losses_per_hour=60, restart_seconds=30, driver_seconds=0, seed=1)
    found = run([20] * 40, pool, rungs=(1,))
    frame = trials_frame(found.study)
    assert len(frame) == 40
    assert found.lost > 5
    assert set(frame.status) <= {"completed", "lost"}
    assert (frame.status == "completed").mean() > 0.8
    assert found.seconds > 40 * 20 / 4
    certain = SimulatedWorkers(2, losses_per_hour=1e9, driver_seconds=0)
    assert set(trials_frame(run([20] * 4, certain).study).status) == {"lost"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"slots": 0}, "slots must be greater than 0, got 0"),
        ({"slots": 1, "straggler_rate": 2}, "within 0 and 1"),
        ({"slots": 1, "losses_per_hour": -1}, "at least 0, got 0.0 and -1"),
    ],
)
def test_impossible_conditions_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SimulatedWorkers(**options)


def test_a_recorded_study_is_replayed_on_other_workers():
    record = run(range(1, 9), 1).study
    again = simulate(
        RecordedObjective(record), TOY_SPACE, "random", 8, SimulatedWorkers(2, driver_seconds=0)
    )
    assert [t.value for t in again.study.trials] == [t.value for t in record.trials]
    assert again.seconds == 20
    with pytest.raises(LookupError, match="no trial with seed 5"):
        RecordedObjective(record)({}, Segment(5, 0, 1, 2))


def test_more_workers_are_drawn_against_fewer():
    runs = [run(range(1, 17), SimulatedWorkers(n, driver_seconds=0.1)) for n in (1, 2, 4)]
    frame = scaling_frame(runs)
    assert list(frame.workers) == [1, 2, 4]
    assert frame.speed_up[0] == pytest.approx(136 / (136 + 16 * 0.1))
    assert np.all(np.diff(frame.speed_up) > 0)
    assert np.all(frame.speed_up <= frame.workers)
    seconds, values = wall_clock_data(runs[1].study)
    assert seconds == sorted(seconds)
    assert values == sorted(values, reverse=True)
    assert values[-1] == frame.best[1]
    for ax in (*plot_scaling(frame), plot_wall_clock({"2": runs[1].study})):
        assert ax.get_xlabel()
        assert ax.get_ylabel()


def test_the_clock_begins_with_the_first_trial_though_it_failed():
    def failing(configuration):
        if configuration == TOY_SPACE.default_configuration():
            raise ArithmeticError
        return bowl(configuration)

    study = run_study(failing, TOY_SPACE, "random", 3, name="f", storage="memory", workers=0)
    began = record_of(study.trials[0]).started
    seconds, values = wall_clock_data(study)
    assert len(values) == 2
    assert seconds[0] == record_of(study.trials[1]).finished - began


def test_workers_simulate_once():
    pool = SimulatedWorkers(2)
    simulate(Timed((1.0,) * 4), TOY_SPACE, "random", 4, pool)
    with pytest.raises(ValueError, match="workers must be new: these have simulated 4 segments"):
        simulate(Timed((1.0,) * 4), TOY_SPACE, "random", 4, pool)
