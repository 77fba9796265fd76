"""Training loops of a user's own: generators that yield the validation error of each epoch."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import textwrap
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from hpo_lib import SearchSpace, open_study, retrain_top_k, run_study, trials_frame
from hpo_lib.exceptions import CheckpointError, StudyStoppedError
from hpo_lib.loop import LoopObjective, as_objective, is_loop
from hpo_lib.objective import Segment

SPACE = SearchSpace.from_yaml("lr: {type: float, low: 0.01, high: 0.9, default: 0.1}")


def halving(configuration):
    """Yield a course that depends on the configuration alone, without a context."""
    weight = 1.0
    while True:
        weight *= 1 - configuration["lr"]
        yield weight


def bounded(configuration, context):
    weight = 1.0
    for _ in range(context.budget):
        weight *= 1 - configuration["lr"]
        yield weight


def saving(configuration, context):
    weight = context.load() or 1.0
    for epoch in range(context.epoch, context.budget):
        with (context.folder.parent / "epochs.txt").open("a") as log:
            log.write(f"{epoch}\n")
        weight *= 1 - configuration["lr"]
        context.save(weight)
        yield {"validation_error": weight, "train_loss": weight / 2}


def segment(folder: Path, start: int = 0, stop: int = 3, checkpoint: str | None = None) -> Segment:
    return Segment(7, start, stop, 9, checkpoint, str(folder), study="a" * 32)


def values(study) -> list[tuple[str, float | None, list[float]]]:
    return [(t.state.name, t.value, sorted(t.intermediate_values.items())) for t in study.trials]


def run(loop, tmp_path, name="loop", **options):
    options = {"workers": 0, "pruning": "asha", "budget": 9, "n_trials": 8} | options
    n_trials = options.pop("n_trials")
    return run_study(
        loop, SPACE, "random", n_trials, name=name, storage=tmp_path / f"{name}.db", **options
    )


def test_what_counts_as_a_loop():
    class Instance:
        def __call__(self, configuration):
            yield 1.0

    assert all(map(is_loop, (halving, Instance(), partial(bounded), Instance().__call__)))
    assert not any(map(is_loop, (len, lambda c: 1.0, None)))


def test_a_study_stops_bad_loops_early(tmp_path):
    study = run(bounded, tmp_path)
    frame = trials_frame(study)
    assert (frame.state == "pruned").sum() > 0
    assert study.best_value == pytest.approx((1 - study.best_params["lr"]) ** 9)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing_of_a_serial_study(workers, tmp_path):
    here = run(saving, tmp_path, "here", pruning=None)
    there = run(saving, tmp_path, "there", pruning=None, workers=workers)
    assert values(here) == values(there)


def test_saving_changes_no_value(tmp_path):
    def without_load(configuration, context):
        weight = 1.0
        for _ in range(context.budget):
            weight *= 1 - configuration["lr"]
            yield weight

    assert values(run(saving, tmp_path, "a")) == values(run(without_load, tmp_path, "b"))


def test_no_epoch_is_repeated_in_one_process(tmp_path):
    run(saving, tmp_path, n_trials=1)
    (log,) = tmp_path.glob("loop.db.checkpoints/*/epochs.txt")
    assert log.read_text().split() == [str(epoch) for epoch in range(9)]


def test_segments_go_on_in_another_process_with_and_without_states(tmp_path):
    from hpo_lib import loop as module

    for function in (saving, bounded, halving):
        folder = tmp_path / function.__name__ / "0"
        folder.mkdir(parents=True)
        objective = LoopObjective(function, 10 if function is halving else 9)
        first = objective({"lr": 0.5}, segment(folder))
        module._suspended.clear()  # as in a new process
        second = objective({"lr": 0.5}, segment(folder, 3, 8, first.checkpoint))
        errors = first.validation_error + second.validation_error
        assert errors == pytest.approx([0.5**epoch for epoch in range(1, 9)])
        assert (first.checkpoint is not None) == (function is saving)


def test_a_state_saved_before_a_kill_is_used(tmp_path):
    seen = []

    def killed(configuration, context):
        weight = context.load() or 1.0
        for epoch in range(context.epoch, context.budget):
            seen.append(epoch)
            if epoch == 5 and len(seen) == 6:
                message = "killed"
                raise RuntimeError(message)
            weight /= 2
            context.save(weight)
            yield weight

    objective = LoopObjective(killed, 9)
    with pytest.raises(RuntimeError):
        objective({}, segment(tmp_path, 0, 9))
    result = objective({}, segment(tmp_path, 0, 9))
    assert seen == [0, 1, 2, 3, 4, 5, 5, 6, 7, 8]
    assert result.validation_error == tuple(0.5**epoch for epoch in range(1, 10))
    assert len(result.seconds) == 9
    assert min(result.seconds) > 0


def test_states_of_rungs_stay_and_others_go(tmp_path):
    objective = LoopObjective(saving, 9)
    folder = tmp_path / "0"
    folder.mkdir()
    first = objective({"lr": 0.5}, segment(folder))
    objective({"lr": 0.5}, segment(folder, 3, 8, first.checkpoint))
    assert sorted(int(path.stem[6:]) for path in folder.iterdir()) == [3, 8]


def test_a_state_of_another_study_or_a_damaged_one_is_refused(tmp_path):
    objective = LoopObjective(saving, 9)
    folder = tmp_path / "0"
    folder.mkdir()
    first = objective({"lr": 0.5}, segment(folder))
    foreign = Segment(7, 3, 9, 9, first.checkpoint, str(folder), study="b" * 32)
    with pytest.raises(CheckpointError, match="belongs to another study"):
        objective({"lr": 0.5}, foreign)
    Path(str(first.checkpoint)).write_bytes(b"\x80garbage")
    with pytest.raises(CheckpointError, match="damaged"):
        objective({"lr": 0.5}, segment(folder, 3, 8, first.checkpoint))
    # Named no more, it is passed over: the trial begins anew.
    assert objective({"lr": 0.5}, segment(folder, 0, 8)).validation_error[-1] == 0.5**8


def test_tensors_are_kept_and_objects_are_refused(tmp_path):
    def with_state(state, configuration, context):
        found = context.load()
        assert found is None or torch.equal(found["weights"], torch.ones(3))
        for _ in range(context.epoch, context.budget):
            context.save(state)
            yield torch.tensor(0.25)

    objective = LoopObjective(partial(with_state, {"weights": torch.ones(3), "step": 1}), 9)
    result = objective({}, segment(tmp_path))
    assert result.validation_error == (0.25,) * 3
    again = LoopObjective(partial(with_state, {"weights": torch.ones(3)}), 9)
    assert again({}, segment(tmp_path, 3, 5, result.checkpoint)).validation_error == (0.25,) * 2
    refused = LoopObjective(partial(with_state, Path("x")), 9)
    with pytest.raises(TypeError, match=r"context\.save takes tensors"):
        refused({}, segment(tmp_path))


@pytest.mark.parametrize("state", [(1, 2), {1: 2}, {"a": {1, 2}}, math.nan])
def test_states_that_text_cannot_keep_are_refused(state, tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "torch")

    def loop(configuration, context):
        context.save(state)
        yield 1.0

    with pytest.raises(TypeError, match=r"context\.save takes dictionaries"):
        LoopObjective(loop, 9)({}, segment(tmp_path, 0, 1))


def ends_early(configuration):
    yield from (0.5, 0.4)


def goes_on(configuration):
    for _ in range(10):
        yield 0.5


@pytest.mark.parametrize(
    ("loop", "message"),
    [
        (ends_early, "must yield once for each of its 9 epochs, this one ended after 2"),
        (goes_on, "this one yields more often: change its range, or the budget"),
        (lambda c: (yield "0.5"), "must return a number from each yield .*, got '0.5'"),
        (lambda c: (yield None), "must return a number from each yield .*, got None"),
        (lambda c: (yield torch.ones(2)), "must return a number from each yield"),
        (lambda c: (yield {"error": 1.0}), "a mapping with validation_error"),
        (lambda c: (yield {"train_loss": 1.0}), "a mapping with validation_error"),
    ],
)
def test_mistakes_have_a_sentence(loop, message, tmp_path):
    with pytest.raises(StudyStoppedError, match=message):
        run(loop, tmp_path, pruning=None)


def test_a_loop_that_diverges_ends_there(tmp_path):
    def diverging(configuration, context):
        yield 0.5
        yield np.float32("nan")
        raise AssertionError

    result = LoopObjective(diverging, 9)({}, segment(tmp_path))
    assert (result.status, result.validation_error) == ("diverged", (0.5,))


def test_the_budget_belongs_to_loops_alone():
    with pytest.raises(ValueError, match="budget, the number of epochs, is needed"):
        as_objective(halving)
    with pytest.raises(ValueError, match="budget belongs to a training loop"):
        as_objective(len, 3)
    with pytest.raises(ValueError, match="budget must be"):
        as_objective(halving, 0)


def test_the_code_after_the_last_epoch_runs(tmp_path):
    ended = []

    def loop(configuration, context):
        try:
            for _ in range(context.budget):
                yield 0.5
        finally:
            ended.append(True)

    LoopObjective(loop, 9)({}, segment(tmp_path, 0, 9))
    assert ended == [True]


def test_the_best_are_retrained(tmp_path):
    run(bounded, tmp_path, pruning=None, n_trials=3)
    objective = LoopObjective(bounded, 9)
    frame = retrain_top_k(
        objective, "loop", k=2, n_seeds=2, storage=tmp_path / "loop.db", workers=0
    )
    assert len(frame) == 2


@pytest.mark.slow
def test_a_killed_study_of_a_loop_goes_on(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        from hpo_lib import SearchSpace, run_study

        def train(configuration, context):
            weight = context.load() or 1.0
            for epoch in range(context.epoch, context.budget):
                weight *= 1 - configuration["lr"]
                context.save(weight)
                with open("epochs.txt", "a") as log:
                    log.write(".")
                kill = int(sys.argv[1])
                if kill and os.path.getsize("epochs.txt") == kill:
                    os.kill(os.getppid() if sys.argv[2] == "driver" else os.getpid(), 9)
                yield weight

        if __name__ == "__main__":
            space = SearchSpace.from_yaml("lr: {type: float, low: 0.01, high: 0.9, default: 0.1}")
            run_study(train, space, "random", 6, name="s", storage="s.db", budget=9,
                      pruning="asha", workers=1, checkpoint_quota=0)
        """)
    )
    undisturbed = tmp_path / "undisturbed"
    undisturbed.mkdir()
    command = [sys.executable, str(script), "0", "driver"]
    subprocess.run(command, cwd=undisturbed, check=True)
    expected = values(open_study("s", undisturbed / "s.db"))

    for who, kill in (("driver", "5"), ("driver", "14"), ("worker", "12")):
        folder = tmp_path / f"{who}{kill}"
        folder.mkdir()
        command = [sys.executable, str(script), kill, who]
        done = subprocess.run(command, cwd=folder)
        assert (done.returncode == -signal.SIGKILL) == (who == "driver")
        subprocess.run(command, cwd=folder, check=True)
        assert values(open_study("s", folder / "s.db")) == expected
        assert os.listdir(folder / "s.db.checkpoints") == []  # noqa: PTH208
