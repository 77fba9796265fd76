"""Optuna's own test suite of samplers, for every strategy that works in any Optuna program.

The strategies that choose configurations of one `SearchSpace` (grid, random, sobol, cmaes,
three_step) are left out by design: the suite asks for parameters that no space was given for.
"""

from __future__ import annotations

from functools import partial

import pytest
from optuna.samplers import TPESampler
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    RelativeSamplerTestCase,
)

from hpo_lib.samplers.bayes import BayesSampler
from hpo_lib.samplers.optuna_samplers import StatelessSampler
from hpo_lib.samplers.registry import make_sampler
from hpo_lib.samplers.skopt_sampler import SkoptSampler
from hpo_lib.space.search_space import SearchSpace

pytestmark = pytest.mark.slow
SPACE = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")  # tpe does without it


class TestBayes(BasicSamplerTestCase, RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: BayesSampler(0, n_initial_points=2)


class TestSkopt(BasicSamplerTestCase, RelativeSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: SkoptSampler(0, n_initial_points=9)  # its model takes long


class TestTpe(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: make_sampler("tpe", SPACE, 0, 50)


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
class TestTpeFromTheFirstTrial(RelativeSamplerTestCase):
    """TPE chooses nothing relative before its 10th trial, which the suite does not wait for."""

    @pytest.fixture
    def sampler(self):
        make = partial(TPESampler, multivariate=True, constant_liar=True, n_startup_trials=0)
        return lambda: StatelessSampler(make, 0)


class TestGenetic(BasicSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return lambda: make_sampler("genetic", SPACE, 0, 50)
