"""Each finding on a search, where the truth is known, both ways."""

from __future__ import annotations

from functools import cache, partial

import numpy as np
import pandas as pd
import pytest

from hpo_lib.assessment.ablation import ablation_path
from hpo_lib.assessment.run import findings
from hpo_lib.assessment.strategies import strategies_finding
from hpo_lib.comparison.hypothesis_tests import seeds_needed
from hpo_lib.space.search_space import SearchSpace
from tests.assessment.studies import SPACE, add, final_frame, lr_bowl, new_study, noise, searched
from tests.comparison.frames import finals_frame
from tests.toys import TOY_SPACE, bowl


@cache
def found_in(study, n_trials):
    assert len(study.trials) == n_trials
    return findings(study)


def by_topic(study, word, **options):
    all_found = findings(study, **options) if options else found_in(study, len(study.trials))
    (found,) = [one for one in all_found if word in one.topic]
    return found


@pytest.fixture(scope="module")
def inside():
    """Only lr matters; its optimum is inside the range."""
    return searched(lr_bowl)


@pytest.fixture(scope="module")
def unpredictable():
    return searched(noise())


def test_the_hyperparameter_that_earns_the_gain_is_named(inside):
    found = by_topic(inside, "What was found")
    assert found.status == "PASS"
    assert found.figures["needed"] == ["lr"]
    assert "By the surrogate, lr earns" in found.sentence
    assert "the other 3 could stay at the default" in found.sentence
    assert "(default 0.0005)" in found.sentence


def test_nothing_earns_a_gain_that_is_noise(unpredictable):
    assert by_topic(unpredictable, "What was found").status == "CAN'T SAY"


def test_a_default_that_stays_the_best_is_a_warning():
    study = searched(lambda c: 0.1 + (c != SPACE.default_configuration()), 6)
    found = by_topic(study, "What was found")
    assert found.status == "WARN"
    assert "Nothing better than the default" in found.sentence


def test_the_path_activates_conditional_hyperparameters_at_their_default():
    study = searched(bowl, 30, space=TOY_SPACE)
    target = {"optimizer": "sgd", "lr": 0.1, "momentum": 0.9, "depth": 8, "width": 3}
    add(study, target, bowl(target), space=TOY_SPACE)
    path = ablation_path(study)
    names = [step.name for step in path.steps]
    assert sorted(names[1:]) == ["depth", "lr", "momentum", "optimizer"]
    assert names.index("optimizer") < names.index("momentum")
    activated = path.steps[names.index("optimizer")].configuration
    assert activated["momentum"] == 0.5
    assert path.steps[0].configuration == TOY_SPACE.default_configuration()
    assert path.steps[-1].configuration == target


def test_an_optimum_beyond_a_bound_says_which_way_to_widen():
    study = searched(partial(lr_bowl, optimum=0.0))
    found = by_topic(study, "edge")
    assert found.status == "WARN"
    assert "widen lr upwards" in found.sentence
    assert [edge["name"] for edge in found.figures["edges"] if edge["inward"] > 2] == ["lr"]


def test_an_optimum_inside_is_at_no_edge(inside):
    assert by_topic(inside, "edge").status == "PASS"


def test_a_bound_on_which_nothing_depends_is_no_warning(inside):
    study = searched(lr_bowl)
    best = inside.best_params | {"dropout": 0.6}
    add(study, best, inside.best_value - 0.001)
    assert by_topic(study, "edge").status == "CAN'T SAY"


@pytest.mark.parametrize(
    ("best", "status"),
    [(16, "WARN"), (64, "PASS")],
)
def test_a_smallest_option_that_earns_the_gain_asks_for_a_smaller_one(best, status):
    space = SearchSpace.from_yaml(
        "batch: {type: choice, options: [16, 64, 256, 512], default: 512}\n"
        "activation: {type: choice, options: [relu, elu], default: relu}"
    )
    study = searched(lambda c: 0.1 + abs(np.log2(c["batch"] / best)) / 50, 24, space=space)
    found = [one for one in findings(study) if "edge" in one.topic]
    if status == "PASS":
        assert not found
    else:
        assert found[0].status == status
        assert found[0].sentence == "Yes: add an option below 16 to batch."


def test_bounds_without_evidence_are_listed_beside_those_with_it():
    study = searched(partial(lr_bowl, optimum=0.0))
    best = study.best_params | {"dropout": 0.6, "lr": 0.1}
    add(study, best, study.best_value - 0.001)
    found = by_topic(study, "edge")
    assert found.status == "WARN"
    assert "widen lr upwards" in found.sentence
    assert "Perhaps also for dropout (0.6, at its upper bound)" in found.sentence


def test_nothing_is_below_a_bound_of_zero():
    space = SearchSpace.from_yaml("decay: {type: float, low: 0.0, high: 1.0}")
    study = searched(lambda c: float(c["decay"]), 12, space=space)
    add(study, {"decay": 0.0}, 0.0, space=space)
    assert by_topic(study, "edge").status == "PASS"


def test_a_search_at_its_optimum_has_flattened():
    study = searched(lr_bowl)
    for width in range(20, 40):
        configuration = {**SPACE.default_configuration(), "lr": 0.01, "width": width}
        add(study, configuration, lr_bowl(configuration))
    found = by_topic(study, "flattened")
    assert found.status == "PASS"
    assert found.figures["trials_since_gain"] == 19


def test_a_search_that_still_gains_has_not():
    space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")
    study = new_study(space)
    for x in np.linspace(0.0, 0.5, 12):
        add(study, {"x": float(x)}, -float(x), space=space)
    found = by_topic(study, "flattened")
    assert found.status == "WARN"
    assert found.figures["trials_since_gain"] == 0


def test_a_surrogate_is_judged_by_trials_that_it_has_not_seen(inside, unpredictable):
    assert by_topic(inside, "surrogate").status == "PASS"
    assert by_topic(unpredictable, "surrogate").status != "PASS"
    assert by_topic(unpredictable, "flattened").status == "CAN'T SAY"


@pytest.mark.parametrize(("ranks", "status"), [(True, "PASS"), (False, "WARN")])
def test_rungs_are_judged_by_the_trials_that_were_trained_to_the_end(ranks, status):
    rng = np.random.default_rng(2)
    study = new_study()
    for _ in range(30):
        configuration = SPACE.sample(rng)
        value = lr_bowl(configuration)
        add(study, configuration, value, at_rung=0.2 + (value if ranks else float(rng.random())))
    add(study, SPACE.sample(rng), None, at_rung=0.9)
    found = by_topic(study, "rungs")
    assert found.status == status
    assert "30 trials" in found.sentence
    assert "Only survivors" in found.sentence


def test_without_pruning_there_is_nothing_on_rungs(inside):
    assert not [one for one in findings(inside) if "rungs" in one.topic]


@pytest.mark.parametrize(
    ("optimism", "error", "status"),
    [(0.05, 0.001, "WARN"), (0.0, 0.001, "PASS"), (0.0, 0.05, "CAN'T SAY")],
)
def test_luck_is_measured_by_fresh_trainings(inside, optimism, error, status):
    row = {"trial": inside.best_trial.number, "n": 3, "optimism": optimism, "mean": 0.1}
    retrained = pd.DataFrame([row]).assign(standard_error=error)
    found = by_topic(inside, "luck", retrained=retrained)
    assert found.status == status
    assert found.sentence.endswith("below the default's value.")

    # The same where the default was trained again, too.
    default = next(
        trial for trial in inside.trials if trial.params == SPACE.default_configuration()
    )
    rows = [row, {"trial": default.number, "n": 3, "optimism": 0.0, "mean": 0.9}]
    retrained = pd.DataFrame(rows).assign(standard_error=error)
    found = by_topic(inside, "luck", retrained=retrained)
    assert found.sentence.endswith("below the default's mean of fresh trainings.")


def test_a_default_that_was_unlucky_once_is_trained_again_before_its_gain_is_claimed():
    # The default is nearly as good as the others; its only value in the search is not.
    space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0, default: 1.0}")
    rng = np.random.default_rng(1)
    study = new_study(space)
    add(study, {"x": 1.0}, 0.2, space=space)
    for x in rng.uniform(high=0.7, size=15):
        add(study, {"x": x}, 0.1 + 0.1 * abs(x - 0.5) + 0.005 * rng.normal(), space=space)
    best = study.best_trial.number
    rows = [
        {"trial": 0, "mean": 0.12, "values": (0.09, 0.12, 0.15)},
        {"trial": best, "mean": 0.104, "values": (0.1, 0.102, 0.11)},
    ]
    retrained = pd.DataFrame(rows).assign(n=3, optimism=0.0, standard_error=0.003)
    assert by_topic(study, "What was found").status == "PASS"
    found = by_topic(study, "What was found", retrained=retrained)
    assert found.status != "PASS"


def test_a_measured_gain_is_told_where_the_surrogate_cannot_say_what_earns_it(unpredictable):
    default = SPACE.default_configuration()
    number = next(trial.number for trial in unpredictable.trials if trial.params == default)
    rows = [
        {"trial": number, "mean": 0.52, "values": (0.51, 0.52, 0.53)},
        {"trial": unpredictable.best_trial.number, "mean": 0.1, "values": (0.09, 0.1, 0.11)},
    ]
    retrained = pd.DataFrame(rows).assign(n=3, optimism=0.0, standard_error=0.003)
    found = by_topic(unpredictable, "What was found", retrained=retrained)
    assert found.status == "CAN'T SAY"
    assert "a gain over the default of 0.42" in found.sentence
    assert "cannot be said" in found.sentence


def test_what_is_best_when_trained_again_is_what_was_found(inside):
    first, second = sorted(inside.trials, key=lambda trial: trial.value)[:2]
    rows = [
        {"trial": first.number, "n": 3, "mean": 0.5},
        {"trial": second.number, "n": 3, "mean": 0.4},
    ]
    retrained = pd.DataFrame(rows).assign(optimism=0.1, standard_error=0.01)
    found = by_topic(inside, "What was found", retrained=retrained)
    assert found.figures["trial"] == second.number
    assert f"trial {second.number} (" in found.sentence
    assert "is ahead when the best are trained again" in found.sentence
    ends = found.figures["path"][-1]["mean"], ablation_path(inside).steps[-1].mean
    assert ends[0] != ends[1]


def test_luck_is_read_from_final_trainings_of_the_same_length():
    study = searched(lr_bowl, 6, validation_error=[0.1] * 10, seconds=[1.0] * 10)
    final = final_frame([0.1, 0.1], [0.1, 0.1]).assign(validation_error=[9, 9, 0.9, 0.92])
    found = by_topic(study, "luck", final=final)
    assert found.status == "WARN"
    assert found.figures["mean"] == pytest.approx(0.91 - study.best_value)
    assert "2 final trainings of the best trial's configuration" in found.sentence

    # Retrainings by which the configuration was chosen do not come before them.
    rows = [{"trial": study.best_trial.number, "mean": 0.01}, {"trial": 0, "mean": 0.5}]
    retrained = pd.DataFrame(rows).assign(n=3, optimism=-0.1, standard_error=0.01)
    both = by_topic(study, "luck", final=final, retrained=retrained)
    assert both.figures["mean"] == found.figures["mean"]
    chosen = by_topic(study, "luck", retrained=retrained)
    assert "by which it was chosen" in chosen.sentence
    assert "0.1 below its" in chosen.sentence

    longer = by_topic(study, "luck", final=final.assign(epochs=20))
    assert longer.status == "CAN'T SAY"
    assert "retrain_top_k" in longer.sentence


def test_strategies_that_always_differ_are_separated():
    frame = finals_frame(
        {
            "bayes": [0.1 + i / 1000 for i in range(10)],
            "random": [0.2 + i / 500 for i in range(10)],
        }
    )
    found = strategies_finding(frame)
    assert found.status == "PASS"
    assert "10 seeds, bayes ends below random (p = 0.002)" in found.sentence


def test_strategies_that_cannot_be_separated_say_how_many_seeds_it_would_take():
    frame = finals_frame({"bayes": [0.1, 0.2, 0.3], "random": [0.2, 0.3, 0.4]})
    found = strategies_finding(frame)
    assert found.status == "CAN'T SAY"
    assert "about 11 seeds)" in found.sentence
    assert strategies_finding(frame[frame["strategy"] == "bayes"]).status == "CAN'T SAY"


def test_more_seeds_are_needed_for_smaller_effects():
    rng = np.random.default_rng(0)
    values = rng.normal(size=40)
    large = seeds_needed(values + 1.0)
    small = seeds_needed(values + 0.4)
    assert large is not None
    assert small is not None
    assert large < small
    assert seeds_needed(np.array([1.0, -1.0])) is None


def test_failures_are_counted_with_their_reasons():
    study = searched(lr_bowl, 8)
    assert by_topic(study, "wrong").status == "PASS"
    for status in ("failed", "timed_out", "lost"):
        add(study, SPACE.default_configuration(), None, status=status, reason="<b>no memory</b>")
    found = by_topic(study, "wrong")
    assert found.status == "WARN"
    assert "3 of 11 trials" in found.sentence
    assert "3 × <b>no memory</b>" in found.sentence
    html = found_in(study, 11)._repr_html_()
    assert "<b>no memory" not in html
    assert "&lt;b&gt;no memory" in html
