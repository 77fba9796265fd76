"""A recorded study to draw, and what a figure of it shows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import optuna
from matplotlib.axes import Axes
from matplotlib.text import Text
from optuna.trial import TrialState, create_trial

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.space.values import Configuration
from hpo_lib.trials import RECORD_KEY, StudyRecord

SPACE = SearchSpace.from_yaml(
    """
optimizer: {type: choice, options: [adamw, sgd], default: adamw}
lr: {type: float, low: 0.0001, high: 0.1, log: true, default: 0.003}
momentum: {type: float, low: 0.5, high: 0.99, default: 0.9, when: {optimizer: sgd}}
n_filters: {type: int, low: 8, high: 24, step: 4, default: 16}
activation: {type: choice, options: [relu, leaky_relu, elu, selu, tanh, sigmoid], default: relu}
dropout: {type: float, low: 0.0, high: 0.5, default: 0.0}
stride: {type: int, fixed: 1}
"""
)


def error_of(configuration: Configuration) -> float:
    value = 0.03 + 0.1 * (math.log10(float(configuration["lr"])) + 2.2) ** 2
    value += 0.2 * (configuration["activation"] == "sigmoid") + 0.05 * float(
        configuration["dropout"]
    )
    return value + (0.15 * (0.95 - float(configuration.get("momentum", 0.9))))


class TrueFunction:
    """A surrogate that knows the objective."""

    def predict(self, configurations: Any) -> tuple[Any, Any]:
        values = [error_of(SPACE.check(c)) for c in configurations]
        return np.array(values), np.full(len(values), 0.01)


def add(study: optuna.Study, space: SearchSpace, configuration: Configuration, **record: Any):
    distributions = space.distributions()
    searched = {k: v for k, v in configuration.items() if k in distributions}
    value = record.pop("value", None)
    study.add_trial(
        create_trial(
            state=TrialState.FAIL if value is None else TrialState.COMPLETE,
            value=value,
            params=searched,
            distributions={name: distributions[name] for name in searched},
            user_attrs={RECORD_KEY: {"configuration": configuration, **record}},
        )
    )


def make_study(n: int = 24, failures: tuple[int, ...] = (3, 11), seed: int = 0) -> optuna.Study:
    study = optuna.create_study(study_name=f"study {seed}")
    StudyRecord(space=SPACE.to_yaml()).write(study)
    rng = np.random.default_rng(seed)
    clock = [1.7e9, 1.7e9]
    for number in range(n):
        configuration = SPACE.sample(rng)
        failed, worker = number in failures, int(np.argmin(clock))
        final, seconds = error_of(configuration), float(rng.uniform(2, 6))
        errors = [final + (0.9 - final) * math.exp(-0.7 * e) for e in range(1, 11)]
        errors[-1] = final
        add(
            study,
            SPACE,
            configuration,
            value=None if failed else final,
            status="diverged" if failed else "completed",
            train_loss=[2.2 * e**1.3 for e in errors],
            validation_loss=[2.4 * e for e in errors],
            validation_error=errors,
            seconds=[seconds / 10] * 10,
            suggest_seconds=0.02,
            worker=f"worker-{worker}",
            started=clock[worker],
            finished=clock[worker] + seconds,
        )
        clock[worker] += seconds + 0.1
    return study


def shown(axes: Any) -> list[Axes]:
    return [ax for ax in np.ravel(axes) if ax is not None]


def draw(axes: Any) -> list[str]:
    """Render for real; return every text that the figure shows."""
    figure: Any = shown(axes)[0].figure
    figure.draw_without_rendering()
    return [t.get_text() for t in figure.findobj(Text) if t.get_visible() and t.get_text()]


def assert_labelled(axes: Any) -> None:
    for ax in shown(axes):
        assert ax.get_xlabel().strip()
        assert ax.get_ylabel().strip()
    draw(axes)
