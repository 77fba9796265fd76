"""Searches in a Python of their own: what goes over the pipe, and what is said when it breaks."""

from __future__ import annotations

import sys

import pytest
from _peer_process import PROCESSES, peer_seconds, search_in_own_python

from hpo_lib.space.search_space import SearchSpace

SPACE = SearchSpace.from_yaml(
    "lr: {type: float, low: 1e-4, high: 0.1, log: true}\n"
    "width: {type: int, low: 4, high: 64, log: true}\n"
    "activation: {type: choice, options: [relu, tanh]}"
)


@pytest.fixture(autouse=True)
def environments(tmp_path, monkeypatch):
    """Environments "random" and "dehb" of a Python that has no package for the latter."""
    monkeypatch.setenv("HPO_PEERS", str(tmp_path))
    for name in ("random", "dehb"):
        python = tmp_path / name / "bin" / "python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
        python.chmod(0o755)
    yield
    for process in list(PROCESSES.values()):
        process.close()


def searched(seed, enough=10, budget=None):
    asked = []

    def evaluate(configuration, epochs):
        if len(asked) == enough:
            return None
        asked.append((configuration, epochs))
        return configuration["lr"]

    search_in_own_python("random", SPACE, evaluate, seed, 10, budget)
    return asked


def test_another_python_asks_for_configurations_of_the_space():
    asked = searched(seed=0)

    assert len(asked) == 10
    assert all(SPACE.contains(configuration) and epochs is None for configuration, epochs in asked)
    assert peer_seconds() > 0


def test_one_python_searches_for_one_seed_after_the_other():
    first, ended_early, again = searched(0), searched(1, enough=3, budget=27), searched(0)

    assert len(PROCESSES) == 1
    assert first == again != ended_early
    assert [epochs for _, epochs in ended_early] == [27, 27, 27]


def test_a_search_that_breaks_says_why():
    with pytest.raises(
        RuntimeError, match=r"(?s)environment dehb failed:.*No module named 'dehb'"
    ):
        search_in_own_python("dehb", SPACE, lambda *_: 0.0, 0, 10, 27)

    assert not PROCESSES


def test_an_objective_that_raises_leaves_no_search_half_done():
    def fails(configuration, epochs):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search_in_own_python("random", SPACE, fails, 0, 10)

    assert len(searched(seed=0)) == 10


def test_an_environment_that_is_missing_is_named(monkeypatch):
    with pytest.raises(LookupError, match=r"bin/python must exist, with HEBO .* installed"):
        search_in_own_python("hebo", SPACE, lambda *_: 0.0, 0, 10)

    monkeypatch.delenv("HPO_PEERS")
    with pytest.raises(LookupError, match="HPO_PEERS must name the folder"):
        search_in_own_python("hebo", SPACE, lambda *_: 0.0, 0, 10)
