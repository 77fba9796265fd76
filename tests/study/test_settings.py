"""Options of samplers and pruners that a user hands in are a part of what a study is."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import MedianPruner, PatientPruner
from optuna.samplers import CmaEsSampler, NSGAIISampler, QMCSampler, TPESampler
from optuna.samplers.nsgaii import BLXAlphaCrossover

from hpo_lib.exceptions import StudyChangedError, StudyError
from hpo_lib.samplers.pruners import RungPruner
from hpo_lib.study.catalog import open_study
from hpo_lib.study.run import run_study
from hpo_lib.trials import StudyRecord
from tests.toys import TOY_SPACE, Learner, bowl

PARTS = {
    "tpe": (TPESampler, {"n_startup_trials": 1}, {"n_startup_trials": 50}),
    "cmaes": (CmaEsSampler, {"sigma0": 0.1}, {"sigma0": 0.2}),
    "genetic": (NSGAIISampler, {"population_size": 4}, {"population_size": 5}),
    "genetic operator": (
        lambda alpha: NSGAIISampler(crossover=BLXAlphaCrossover(alpha)),
        {"alpha": 0.1},
        {"alpha": 0.2},
    ),
    "quasi-random": (QMCSampler, {"qmc_type": "sobol"}, {"qmc_type": "halton"}),
    "pruner": (MedianPruner, {"n_startup_trials": 1}, {"n_startup_trials": 50}),
    "nested pruner": (
        lambda n: PatientPruner(MedianPruner(n_warmup_steps=n), patience=1),
        {"n": 1},
        {"n": 2},
    ),
    "rung pruner": (
        RungPruner,
        {"rule": "asha", "rungs": (1,)},
        {"rule": "median", "rungs": (1,)},
    ),
}


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("part", PARTS)
def test_another_option_of_an_optuna_part_is_another_setting(part, recwarn):
    make, options, others = PARTS[part]
    is_sampler = "pruner" not in part

    def search(made: Any, n_trials: int) -> int:
        chosen = {} if is_sampler else {"pruning": made, "rungs": (1,)}
        strategy = made if is_sampler else "random"
        arguments = (Learner("log"), TOY_SPACE, strategy, n_trials)
        return len(run_study(*arguments, name="x", storage=storage, workers=0, **chosen).trials)

    storage = "s.db"
    made = make(**options)
    assert search(made, 3) == 3
    assert search(made, 4) == 4  # used by now, which is no option
    assert search(make(**options), 5) == 5
    with pytest.raises(StudyChangedError, match=rf"\+ {'sampler' if is_sampler else 'pruner'}\."):
        search(make(**others), 6)
    assert not [one for one in recwarn if "cannot be identified" in str(one.message)]

    # Other versions of Optuna may have other options, and earlier records have none.
    study = open_study("x", storage)
    record = StudyRecord.of(study)
    key = "sampler" if is_sampler else "pruner"
    recorded = {"versions": {"optuna": "4.0.0"}, "_old": "1"}
    record = record.write(study, settings={**record.settings, key: recorded})
    assert search(make(**options), 6) == 6
    settings = {name: value for name, value in record.settings.items() if name != key}
    record.write(open_study("x", storage), settings=settings)
    assert search(make(**options), 7) == 7


def test_what_a_sampler_holds_and_cannot_be_identified_is_named():
    class Holding(optuna.samplers.RandomSampler):
        def __init__(self) -> None:
            super().__init__(seed=0)
            self.socket = socket.socket()

    sampler = Holding()
    with pytest.warns(
        UserWarning, match=r"self\.socket of Holding cannot be identified"
    ) as warned:
        run_study(bowl, TOY_SPACE, sampler, 2, name="own", storage="memory", workers=0)
    assert warned[0].filename == __file__
    sampler.socket.close()


def test_a_samplers_own_attribute_is_no_option_of_ours():
    class Named(optuna.samplers.RandomSampler):
        settings = object()  # no JSON

    study = run_study(bowl, TOY_SPACE, Named(seed=0), 2, name="own", storage="memory", workers=0)
    options = StudyRecord.of(study).settings["sampler"]
    assert options["versions"]["optuna"] == optuna.__version__


WRONG = [
    ({"callback": 5}, TypeError, "callback must be a function of study and trial, or several"),
    ({"stop": [5]}, TypeError, "stop must be a function of the study, or several, got 5"),
    ({"rungs": 5}, TypeError, "rungs must be a sequence of epochs, got 5"),
    ({"rungs": ["1"]}, TypeError, "each of rungs must be a whole number, got '1'"),
    ({"max_failures": True}, TypeError, "max_failures must be a whole number, got True"),
    ({"workers": True}, TypeError, "workers must be a whole number, got True"),
    ({"name": 5}, TypeError, "name must be text, got 5"),
    ({"workers": 1, "memory_limit": "2GB"}, TypeError, "memory_limit must be a number, got '2GB'"),
    ({"storage": 5}, StudyError, "storage must be a file, a URL or a storage, got 5"),
    ({"storage": b"s.db"}, StudyError, "storage must be a file, a URL or a storage, got b's.db'"),
]


@pytest.mark.parametrize(("wrong", "error", "message"), WRONG)
def test_an_argument_of_a_wrong_type_is_named_before_anything_is_spent(wrong, error, message):
    options = {"name": "x", "storage": "s.db", "workers": 0, **wrong}
    with pytest.raises(error, match=re.escape(message)):
        run_study(Learner("log"), TOY_SPACE, "random", 2, **options)
    assert not Path("log").exists()


def test_one_rule_alone_stops_a_study():
    def stop(study: optuna.Study) -> str | None:
        return "enough" if len(study.trials) == 2 else None

    study = run_study(
        bowl, TOY_SPACE, "random", 4, name="x", storage="memory", workers=0, stop=stop
    )
    assert len(study.trials) == 2
