from __future__ import annotations

from hpo_lib import SearchSpace, run_study
from hpo_lib.assessment.ablation import AblationPath, AblationStep, ablation_path
from hpo_lib.plots.ablation import describe_relevance, plot_ablation, relevant_parameters
from hpo_lib.plots.study import importance_data
from tests.plots.recorded import draw, make_study

SPACE = SearchSpace.from_dict(
    {name: {"type": "float", "low": 0.0, "high": 1.0, "default": 0.5} for name in "abc"}
)


def test_the_ablation_figure_names_each_change_and_what_it_leads_to():
    steps = (
        AblationStep("", {"lr": 0.1, "width": 8}, 0.5, 0.01),
        AblationStep("lr", {"lr": 0.012345, "width": 8}, 0.3, 0.01),
        AblationStep("width", {"lr": 0.012345, "width": 16}, 0.295, 0.01),
    )
    texts = draw(plot_ablation(AblationPath(steps)))
    assert {"default", "lr = 0.0123", "width = 16"} <= set(texts)
    assert any("1 change above the dotted line: 98%" in text for text in texts)


def test_what_ablation_and_importance_rank_first_are_the_relevant_parameters():
    study = make_study(24)
    first = next(iter(importance_data(study).shares))
    assert relevant_parameters(study, 1) == [ablation_path(study).steps[1].name]
    assert first in relevant_parameters(study, 2)
    assert len(relevant_parameters(study, 3)) == 3


def test_two_hyperparameters_matter_where_importance_and_ablation_agree():
    def value(configuration):
        return 9 * (configuration["a"] - 0.1) ** 2 + 3 * (configuration["b"] - 0.1) ** 2

    options = {"name": "two", "storage": "memory", "workers": 0, "progress": False}
    study = run_study(value, SPACE, "random", 30, **options)
    assert "name the same two first: a and b matter most" in describe_relevance(study)


def test_a_path_of_two_changes_that_importance_does_not_share_names_one_or_none():
    study = make_study(24)
    first = list(importance_data(study).shares)
    default = AblationStep("", {}, 0.5, 0.01)

    def path(*names):
        return AblationPath((default, *(AblationStep(name, {}, 0.4, 0.01) for name in names)))

    one = describe_relevance(study, path(first[0], first[-1]))
    assert "cannot be said from 22 trials" in one
    assert one.endswith(f"Both name {first[0]}.")
    assert "Both name" not in describe_relevance(study, path(first[-1]))
    assert "The best configuration is the default" in describe_relevance(study, path())


def test_with_few_trials_the_first_parameters_of_the_space_are_shown_and_it_is_said():
    options = {"name": "few", "storage": "memory", "workers": 0, "progress": False}
    study = run_study(lambda c: c["a"], SPACE, "random", 3, **options)
    assert relevant_parameters(study, 2) == ["a", "b"]
    assert "Which two matter most cannot be said" in describe_relevance(study)
