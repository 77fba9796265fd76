"""A driver that ends between any two of its writes loses and changes nothing."""

from __future__ import annotations

import itertools
from typing import Any

import optuna
import pytest
from optuna.storages import RDBStorage

from hpo_lib.study.catalog import open_study
from hpo_lib.study.run import run_study
from hpo_lib.trials import recorded_trials
from tests.toys import TOY_SPACE, Learner, ending

WRITES = (
    "create_new_trial",
    "set_trial_param",
    "set_trial_state_values",
    "set_trial_intermediate_value",
    "set_trial_user_attr",
    "set_study_user_attr",
)


def run(storage: str, strategy: str = "tpe") -> optuna.Study:
    learner = Learner(f"{storage}.log")
    return run_study(
        learner,
        TOY_SPACE,
        strategy,
        4,
        name="x",
        storage=storage,
        workers=0,
        rungs=(1, 3),
        pruning="asha",
    )


def cut_at(patched: pytest.MonkeyPatch, last: int) -> None:
    """Let only so many writes happen; the next ones raise, those of tidying up, too."""
    counter = itertools.count(1)

    def counted(name: str) -> Any:
        write = getattr(RDBStorage, name)

        def method(self: RDBStorage, *arguments: Any, **named: Any) -> Any:
            if next(counter) > last:
                raise KeyboardInterrupt
            return write(self, *arguments, **named)

        return method

    for name in WRITES:
        patched.setattr(RDBStorage, name, counted(name))


@pytest.mark.slow
def test_a_driver_that_is_cut_before_any_write_goes_on_as_if_it_never_was(monkeypatch):
    undisturbed = ending(run("calm.db"))

    for last in itertools.count(1, 3):
        with monkeypatch.context() as patched:
            cut_at(patched, last)
            try:
                run("cut.db")
            except KeyboardInterrupt:
                continue
            break
    assert last > 10
    assert ending(open_study("x", "cut.db")) == undisturbed


def test_a_trial_is_read_back_only_to_be_handed_out(monkeypatch):
    """The driver writes each segment's record once, whole, and reads none of it back."""
    written: list[str] = []
    write = RDBStorage.set_trial_user_attr

    def note(self: RDBStorage, trial_id: int, key: str, value: Any) -> None:
        written.append(key)
        write(self, trial_id, key, value)

    monkeypatch.setattr(RDBStorage, "set_trial_user_attr", note)
    study = run_study(
        Learner("log"), TOY_SPACE, "random", 2, name="x", storage="s.db", workers=0, rungs=(1, 3)
    )
    assert written == ["hpo_lib"] * 8  # per trial: the configuration, then three segments
    for trial in recorded_trials(study):
        assert list(trial.record.checkpoints) == ["1", "3", "4"]
        assert len(trial.record.train_loss) == len(trial.record.seconds) == 4
        assert trial.intermediate_values == dict(enumerate(trial.record.validation_error, 1))
