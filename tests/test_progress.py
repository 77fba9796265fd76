"""Progress of long work: a bar where someone watches, lines in a log, nothing elsewhere."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import pytest

from hpo_lib import progress
from hpo_lib.comparison.run import compare, replay
from hpo_lib.formatting import format_number, format_seconds
from hpo_lib.loop import as_objective
from hpo_lib.progress import Progress
from hpo_lib.study.background import BackgroundStudy
from hpo_lib.study.retrain import retrain_top_k
from hpo_lib.study.run import run_study
from tests.toys import TOY_SPACE, bowl


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(progress.time, "perf_counter", lambda: clock.now)
    return clock


def work(clock: SimpleNamespace, seconds: float, **options: Any) -> None:
    with Progress(20, **options) as shown:
        for number in range(20):
            clock.now += seconds
            shown.advance(lambda number=number: f"best {number}")


def test_a_log_gets_a_line_now_and_then(clock, capsys):
    work(clock, 4)
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.splitlines()[0] == "[3/20] best 2, 68 s left"
    assert said.err.splitlines()[-1] == "[20/20] best 19, 80 s in all"
    assert len(said.err.splitlines()) == 7
    assert "\r" not in said.err


def test_what_was_done_before_does_not_count_for_the_time_left(clock, capsys):
    with Progress(20, done=10) as shown:
        clock.now += 10
        shown.advance(lambda: "best 1")
    assert capsys.readouterr().err == "[11/20] best 1, 90 s left\n"


def test_a_slow_first_step_does_not_count_for_the_time_left(clock, capsys):
    with Progress(20) as shown:
        for seconds in (60, 2, 9):
            clock.now += seconds
            shown.advance(lambda: "best 1")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "[1/20] best 1, 19 min left"
    assert second == "[3/20] best 1, 94 s left"


def test_work_that_ends_early_says_how_far_it_came(clock, capsys):
    with Progress(20) as shown:
        clock.now += 1
        shown.advance(lambda: "best 1")
        assert capsys.readouterr().err == ""
    assert capsys.readouterr().err == "[1/20] best 1, 19 s left\n"


def test_a_terminal_gets_a_bar(clock, capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    work(clock, 4)
    shown = capsys.readouterr().err
    assert "| 10/20, best 9, 40 s left" in shown
    assert "20/20, best 19, 80 s in all" in shown
    assert "[20/20]" not in shown


def test_nothing_is_shown_where_it_is_not_wanted(clock, capsys, monkeypatch):
    work(clock, 4, enabled=False)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    work(clock, 4, enabled=False)
    assert capsys.readouterr().err == ""


def test_a_study_shows_its_trials_and_its_incumbent(capsys):
    place: dict[str, Any] = {"name": "toy", "storage": "memory", "workers": 0}
    study = run_study(bowl, TOY_SPACE, "random", 4, **place)
    line = rf"\[4/4\] best {re.escape(format_number(study.best_value))}, 0 s in all\n"
    assert re.fullmatch(line, capsys.readouterr().err)


def test_a_study_says_how_many_trials_failed(capsys):
    def fail(configuration: Any) -> float:
        raise ArithmeticError

    place: dict[str, Any] = {"name": "toy", "storage": "memory", "workers": 0}
    run_study(fail, TOY_SPACE, "random", 2, **place)
    assert capsys.readouterr().err == "[2/2] no value yet, 2 failed, 0 s in all\n"


def test_a_finished_study_and_one_beside_the_page_show_nothing(tmp_path, capsys):
    place: dict[str, Any] = {"name": "toy", "storage": tmp_path / "studies.db", "workers": 0}
    search = BackgroundStudy(bowl, TOY_SPACE, "random", 3, **place)
    search.start()
    search.wait()
    run_study(bowl, TOY_SPACE, "random", 3, **place)
    assert capsys.readouterr().err == ""


def test_the_callback_of_the_user_is_still_asked(capsys):
    place: dict[str, Any] = {"name": "toy", "storage": "memory", "workers": 0}
    study = run_study(bowl, TOY_SPACE, "random", 9, callback=lambda *_: True, **place)
    assert len(study.trials) == 1
    assert capsys.readouterr().err.startswith("[1/9] best ")


def test_the_best_trained_again_are_counted_as_trainings(tmp_path, capsys):
    place: dict[str, Any] = {"storage": tmp_path / "studies.db", "workers": 0}
    run_study(bowl, TOY_SPACE, "random", 4, name="toy", progress=False, **place)
    retrain_top_k(bowl, "toy", 2, 3, **place)
    assert capsys.readouterr().err.startswith("[9/9] best ")  # the default, too


@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_replay_shows_its_studies(capfd, processes):
    replay(as_objective(bowl), TOY_SPACE, ["random", "sobol"], [0, 1], 3, processes=processes)
    *_, line = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"\[4/4\] \w+, seed [01]: best [\d.e-]+ of 3 trials, \d+ s in all", line)


def test_a_comparison_shows_its_studies(capsys):
    compare(bowl, TOY_SPACE, ["random"], [0, 1], 3, storage="memory", workers=0)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("[2/2] random, seed 1: best ")
    compare(bowl, TOY_SPACE, ["random"], [0], 3, storage="memory", workers=0, progress=False)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (1e-5, "1.00e-05"),
        (0.00012345, "0.000123"),
        (0.5, "0.500"),
        (-41.27, "-41.3"),
        (256.0, "256"),
        (1234567.8, "1,234,568"),
        (float("inf"), "inf"),
        (float("nan"), "nan"),
    ],
)
def test_numbers_keep_their_significant_digits(value, text):
    assert format_number(value) == text


def test_times_are_said_as_people_say_them():
    assert [format_seconds(s) for s in (0.4, 99, 101, 5999, 6001)] == [
        *("0 s", "99 s", "2 min", "100 min", "1.7 h")
    ]
