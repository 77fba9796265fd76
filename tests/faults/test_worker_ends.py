"""However a worker's process ends, and whatever it hands back, the driver goes on."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import math
import os
import sqlite3
import stat
import time
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from optuna.trial import TrialState
from sqlalchemy import Engine, event

from hpo_lib.objective import FunctionObjective, Segment, SegmentResult
from hpo_lib.study.run import run_study
from hpo_lib.study.workers.base import Failure, evaluate
from hpo_lib.study.workers.local import LocalWorkers
from tests.toys import TOY_SPACE, bowl, record_of

SEGMENT = Segment(seed=1, start=0, stop=2, budget=2)
CONFIGURATION = TOY_SPACE.default_configuration()
TWO = (0.5, 0.25)


@pytest.fixture
def pool():
    made = LocalWorkers(1)
    yield made
    made.close()


def ask(pool, function):
    segment = Segment(seed=1, start=0, stop=1, budget=1)
    return pool.submit(FunctionObjective(function), CONFIGURATION, segment).result(60).outcome


@dataclass(frozen=True)
class Returning:
    """Returns the same each time, or calls it when it is a function."""

    result: Any
    budget: int = 2

    @property
    def settings(self):
        return {}

    def __call__(self, configuration, segment):
        return self.result() if callable(self.result) else self.result


# ends of a process


def exit_quietly(configuration):
    os._exit(0)


def become_another_program(configuration):
    os.execv("/bin/sh", ["sh", "-c", "exit 0"])


def become_a_long_program(configuration):
    os.execv("/bin/sh", ["sh", "-c", "sleep 600"])


def leave_a_child_and_exit(configuration):
    if os.fork() == 0:
        time.sleep(600)
    os._exit(0)


def close_every_file(configuration):
    os.closerange(3, 1024)
    time.sleep(600)


@pytest.mark.slow
@pytest.mark.parametrize(
    "end",
    [
        exit_quietly,
        become_another_program,
        become_a_long_program,
        leave_a_child_and_exit,
        close_every_file,
    ],
)
def test_a_process_that_ends_without_an_error_is_lost(pool, end):
    outcome = ask(pool, end)
    assert outcome.status == "lost"
    assert outcome.reason.startswith("its process died without a result: ")
    assert ask(pool, bowl).validation_error == (bowl(CONFIGURATION),)


@pytest.mark.slow
def test_a_study_goes_on_after_a_trial_whose_process_ends_quietly():
    def quiet(configuration):
        return exit_quietly(configuration) if configuration == CONFIGURATION else 1.0

    study = run_study(quiet, TOY_SPACE, "random", 2, name="x", workers=1)
    assert record_of(study.trials[0]).status == "lost"
    assert "exit code 0" in record_of(study.trials[0]).reason
    assert study.trials[1].state == TrialState.COMPLETE


@pytest.mark.slow
def test_a_process_that_writes_into_every_socket_is_lost(pool):
    def write(configuration):
        for fd in range(3, 1024):
            with contextlib.suppress(OSError):
                if stat.S_ISSOCK(os.fstat(fd).st_mode):
                    os.write(fd, b"\0\0\0\4what")
        return 1.0

    assert ask(pool, write).status == "lost"
    assert ask(pool, bowl).validation_error == (bowl(CONFIGURATION),)


class Unreadable(float):
    """Raises where it is unpickled."""

    def __reduce__(self):
        return (int, ("no number",))


class UnreadableError(Exception):
    """Can be pickled, but not unpickled."""

    def __init__(self, first, second):
        super().__init__(first)


class UnwritableError(Exception):
    """Cannot be pickled."""

    def __reduce__(self):
        raise self


class SpeechlessError(Exception):
    """Has no message."""

    def __str__(self):
        raise self

    __repr__ = __str__


def raise_unreadable(configuration):
    raise UnreadableError(1, 2)


@pytest.mark.slow
def test_what_cannot_be_pickled_does_not_stop_the_driver(pool):
    assert ask(pool, lambda c: Unreadable(0.5)).validation_error == (0.5,)
    assert ask(pool, raise_unreadable).reason == "UnreadableError: 1"

    def unwritable(configuration):
        raise UnwritableError

    assert ask(pool, unwritable).status == "failed"
    assert ask(pool, bowl).validation_error == (bowl(CONFIGURATION),)


# exceptions of every kind


ENDS = [
    asyncio.CancelledError,
    concurrent.futures.CancelledError,
    GeneratorExit,
    StopIteration,
    SystemExit,
    BaseException,
    SpeechlessError,
    MemoryError,
    RecursionError,
    TimeoutError,
    EOFError,
    BrokenPipeError,
    InterruptedError,
]


@pytest.mark.parametrize("kind", ENDS)
def test_any_exception_is_a_failed_trial_and_the_study_goes_on(kind):
    def function(configuration):
        if configuration["depth"] == 4:
            raise kind
        return 1.0

    study = run_study(function, TOY_SPACE, "random", 4, name="x", storage="memory", workers=0)
    assert record_of(study.trials[0]).status == "failed"
    assert record_of(study.trials[0]).reason.startswith(kind.__name__)
    assert len(study.trials) == 4


@pytest.mark.slow
def test_any_exception_is_a_failed_segment_in_a_worker(pool):
    def raiser(kind):
        def function(configuration):
            raise kind

        return function

    for kind in [*ENDS, KeyboardInterrupt]:
        outcome = ask(pool, raiser(kind))
        assert outcome.status == "failed", kind
        assert outcome.reason.startswith(kind.__name__)
    assert ask(pool, bowl).validation_error == (bowl(CONFIGURATION),)


def test_an_interrupt_in_the_drivers_own_process_passes():
    def interrupted(configuration):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        evaluate(FunctionObjective(interrupted), CONFIGURATION, SEGMENT, "driver")


# results of every kind


def result(**changes):
    names = ("train_loss", "validation_loss", "validation_error", "seconds")
    return SegmentResult(**{**dict.fromkeys(names, TWO), **changes})


class Unspeakable:
    """Has a `repr` that raises."""

    def __repr__(self):
        raise RuntimeError


WRONG = {
    "none": (None, "objective must return a SegmentResult, got None"),
    "tuple": (TWO, "a SegmentResult, got \\(0.5, 0.25\\)"),
    "class": (Unspeakable(), "got an object of type Unspeakable whose repr fails"),
    "no curve": (result(validation_error=None), "validation_error as a sequence .*got None"),
    "scalar": (result(validation_error=0.5), "validation_error as a sequence .*got 0.5"),
    "0-d": (result(validation_error=np.array(0.5)), "as a sequence"),
    "text": (result(train_loss="ab"), "train_loss as a sequence .*got 'ab'"),
    "bytes": (result(train_loss=b"ab"), "train_loss as a sequence"),
    "set": (result(train_loss={1.0, 2.0}), "train_loss as a sequence"),
    "dict": (result(train_loss={0: 1.0, 1: 2.0}), "train_loss as a sequence"),
    "generator": (lambda: result(train_loss=(x for x in TWO)), "train_loss as a sequence"),
    "matrix": (result(validation_loss=np.ones((2, 2))), "numbers as validation_loss, got"),
    "words": (result(validation_error=("a", "b")), "numbers as validation_error, got 'a'"),
    "digits": (result(validation_error=("0.5", "1")), "numbers as validation_error, got '0.5'"),
    "nones": (result(validation_error=(None, None)), "numbers as validation_error, got None"),
    "complex": (result(validation_error=(1j, 1.0)), "numbers as validation_error, got 1j"),
    "huge": (result(validation_error=(10**400, 1)), "within the range of a float"),
    "unspeakable": (result(seconds=(Unspeakable(), 1)), "numbers as seconds, got an object"),
    "short": (result(validation_error=(1.0,)), "one length, .* 2 epochs .*'validation_error': 1"),
    "long": (result(train_loss=(1.0,) * 3), "one length, .* 2 epochs .*'train_loss': 3"),
    "empty": (result(seconds=()), "one length, .* 2 epochs .*'seconds': 0"),
    "no seconds": (result(seconds=None), "seconds as a sequence .*got None"),
    "nan seconds": (result(seconds=(1.0, math.nan)), "finite seconds of at least 0, got nan"),
    "negative": (result(seconds=(1.0, -1.0)), "finite seconds of at least 0, got -1.0"),
    "endless": (result(seconds=(1.0, math.inf)), "finite seconds of at least 0, got inf"),
    "status": (result(status="done"), "one of completed, diverged as status, got 'done'"),
    "no status": (result(status=None), "as status, got None"),
    "statuses": (result(status=["completed"]), "as status, got"),
    "uneven": (result(status="diverged", seconds=(1.0,)), "curves of one length"),
    "number as path": (result(checkpoint=5), "a path or None as checkpoint, got 5"),
    "bytes as path": (result(checkpoint=b"x"), "a path or None as checkpoint, got b'x'"),
    "empty path": (result(checkpoint=""), "a path or None as checkpoint, got ''"),
    "NUL": (result(checkpoint="a\0b"), "a path or None as checkpoint, got"),
}


@pytest.mark.parametrize(("wrong", "reason"), WRONG.values(), ids=WRONG)
def test_a_wrong_result_is_a_failed_trial_and_the_study_goes_on(wrong, reason):
    options = {"name": "x", "workers": 0, "max_failures": 9}
    for n_trials in (2, 3):  # the same study goes on
        study = run_study(Returning(wrong), TOY_SPACE, "random", n_trials, **options)
    assert [record_of(t).status for t in study.trials] == ["failed"] * 3
    for trial in study.trials:
        with pytest.raises(AssertionError, match=reason):
            raise AssertionError(record_of(trial).reason)


@pytest.mark.slow
def test_a_wrong_result_of_a_worker_is_a_failure(pool):
    for name, (wrong, _) in WRONG.items():
        outcome = pool.submit(Returning(wrong), CONFIGURATION, SEGMENT).result(60).outcome
        assert isinstance(outcome, Failure), name
        assert outcome.status == "failed", name
    right = pool.submit(Returning(result()), CONFIGURATION, SEGMENT).result(60).outcome
    assert right == result()


PLAIN = {
    "list": list(TWO),
    "array": np.array(TWO),
    "float32": np.array(TWO, np.float32),
    "scalars": (np.float32(0.5), np.float16(0.25)),
    "tensor": torch.tensor(TWO, requires_grad=True),
    "bfloat16": torch.tensor(TWO, dtype=torch.bfloat16),
    "tensors": [torch.tensor(0.5), torch.tensor([0.25])],
    "series": pd.Series(TWO),
    "exact": (Decimal("0.5"), Fraction(1, 4)),
}


@pytest.mark.parametrize("curve", PLAIN.values(), ids=PLAIN)
def test_numbers_of_other_libraries_become_floats(curve):
    objective = Returning(result(validation_error=curve, seconds=curve))
    outcome = evaluate(objective, CONFIGURATION, SEGMENT, "here").outcome
    assert outcome == result()
    assert {type(value) for value in outcome.validation_error} == {float}


@pytest.mark.parametrize("value", [np.float32(0.5), np.array([0.5]), torch.tensor(0.5)])
def test_a_function_may_return_a_number_of_another_library(value):
    study = run_study(lambda c: value, TOY_SPACE, "random", 1, name="x", workers=0)
    assert study.best_value == 0.5


@pytest.mark.parametrize("value", [None, (0.5, 0.1), "0.5", np.ones(2)])
def test_a_function_that_returns_no_number_fails_with_a_sentence(value):
    study = run_study(lambda c: value, TOY_SPACE, "random", 1, name="x", workers=0)
    reason = record_of(study.trials[0]).reason
    assert reason == f"TypeError: objective must return a number, got {value!r}"


def test_the_mean_of_masked_values_is_no_number():
    def nothing_left(configuration):
        return np.ma.masked_array([1.0, 2.0], mask=True).mean()

    study = run_study(nothing_left, TOY_SPACE, "random", 1, name="x", workers=0)
    reason = record_of(study.trials[0]).reason
    assert reason == "TypeError: objective must return a number, got masked"


def test_nan_in_a_curve_is_recorded_or_diverged():
    nan = (0.5, math.nan)
    study = run_study(
        Returning(result(train_loss=nan)), TOY_SPACE, "random", 1, name="x", workers=0
    )
    assert study.best_value == 0.25
    study = run_study(
        Returning(result(validation_error=nan)), TOY_SPACE, "random", 1, name="y", workers=0
    )
    assert record_of(study.trials[0]).status == "diverged"


@pytest.mark.slow
def test_a_segment_of_more_epochs_than_a_statement_takes_values_is_recorded():
    def limit(connection, record):
        connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, 999)

    n = 1_000
    many = tuple(float(i) for i in range(n))
    objective = Returning(SegmentResult(many, many, many, many), budget=n)
    event.listen(Engine, "connect", limit)
    try:
        study = run_study(objective, TOY_SPACE, "random", 1, name="x", workers=0)
    finally:
        event.remove(Engine, "connect", limit)
    assert study.best_value == n - 1
    assert len(study.trials[0].intermediate_values) == n
