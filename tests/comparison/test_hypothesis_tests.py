from __future__ import annotations

import math
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binom, wilcoxon

from hpo_lib.comparison.hypothesis_tests import (
    effect_size,
    friedman,
    rank_strategies,
    seeds_needed,
    separations,
    superiority,
    verdict,
)
from hpo_lib.comparison.statistics import summary
from tests.comparison.frames import curves_frame, finals_frame
from tests.toys import TOY_SPACE, bowl


def test_five_seeds_cannot_separate_three_strategies_and_it_says_so():
    frame = finals_frame({"a": [1, 2, 3, 4, 5], "b": [2, 4, 6, 8, 10], "c": [3, 6, 9, 12, 15]})
    assert "5 seeds cannot separate a from b at 1 trials, whatever they had shown" in verdict(
        frame
    )


def test_twenty_seeds_separate_what_is_far_apart():
    rng = np.random.default_rng(0)
    low = list(rng.normal(0, 1, 20))
    frame = finals_frame({"a": low, "b": [v + 5 + rng.normal() for v in low]})
    assert verdict(frame).startswith("20 seeds: a ends below b")


@pytest.mark.slow
def test_equal_strategies_are_rarely_called_different():
    rng = np.random.default_rng(0)
    called = 0
    for _ in range(200):
        frame = finals_frame({name: list(rng.normal(0, 1, 12)) for name in "abc"})
        called += bool((separations(frame)["p"] <= 0.05).any())
    assert called <= 20  # the family-wise rate is 5 %: 10 expected, 20 is 3 sigma


def test_a_close_call_says_how_little_it_is():
    rng = np.random.default_rng(1)
    text = verdict(finals_frame({name: list(rng.normal(size=15)) for name in "ab"}))
    pair = r"15 seeds cannot separate a from b at 1 trials \(p = 0\.\d\d\); "
    assert re.fullmatch(pair + r"it would take (about \d+|more than 1,000) seeds\.", text)


def test_as_many_seeds_as_needed_separate_four_times_out_of_five():
    rng = np.random.default_rng(0)
    needed = seeds_needed(rng.normal(0.6, 1.0, 400))
    assert needed is not None

    found = [wilcoxon(rng.normal(0.6, 1.0, needed)).pvalue <= 0.05 for _ in range(300)]
    assert 0.7 < np.mean(found) < 0.9

    # Without a difference, or with few seeds that all agree.
    assert seeds_needed(np.zeros(5)) is None
    assert seeds_needed(np.ones(5), n_pairs=3) == 14


def test_the_effect_goes_with_the_winner():
    frame = finals_frame({"a": [float(v) for v in range(10)], "b": [v + 0.5 for v in range(10)]})
    assert separations(frame).effect.tolist() == [-1.0]
    assert "a ends below b at 1 trials (p = 0.002, effect size 1.00)" in verdict(frame)


def test_a_pair_has_the_interval_that_superiority_gives_at_the_end():
    frame = finals_frame({"a": [1.0, 2.0, 3.0, 4.0], "b": [2.0, 3.0, 3.0, 1.0], "c": [math.nan]})
    row = separations(frame).iloc[0]
    end = superiority(frame).iloc[-3]
    assert (row.a, row.b) == (end.a, end.b) == ("a", "b")
    assert row.probability == end.probability == 0.625
    assert (row.low, row.high) == (end.low, end.high)
    assert 0 < row.low < 0.625 < row.high < 1

    apart = finals_frame({"a": [1.0], "b": [2.0]}).assign(seed=[0, 1])
    row = separations(apart).iloc[0]
    assert (row.n_seeds, row.low, row.high) == (0, 0.0, 1.0)


def test_ties_are_counted_and_are_no_evidence():
    row = separations(finals_frame({"a": [1.0, 1.0, 2.0], "b": [1.0, 1.0, 2.0]})).iloc[0]
    assert (row.ties, row.a_wins, row.p) == (3, 0, 1.0)


def test_a_seed_without_a_value_ends_above_those_that_have_one():
    frame = finals_frame(
        {"a": [0.1] * 10 + [math.nan] * 10, "b": [0.2 + i / 1000 for i in range(20)]}
    )
    row = separations(frame).iloc[0]
    assert (row.n_seeds, row.a_wins) == (20, 10)
    assert row.p > 0.05
    assert list(summary(frame).n_seeds) == [20, 20]
    assert summary(frame)["q75"]["a"] == math.inf


def test_a_strategy_that_always_fails_hides_nothing_of_the_others():
    low, high = list(range(20)), list(range(30, 50))
    frame = finals_frame({"a": low, "b": high, "bad": [math.nan] * 20})
    table = separations(frame)
    assert (table.p < 0.01).all()
    assert (table.n_seeds == 20).all()
    assert table.effect.tolist() == [-1.0, -1.0, -1.0]


def test_seeds_that_one_strategy_was_not_run_with_are_left_out_of_its_pairs():
    frame = finals_frame({"a": [1.0, 2.0, 3.0], "b": [2.0, 3.0], "c": [3.0, 4.0, 5.0]})
    assert separations(frame).n_seeds.tolist() == [2, 3, 2]


def test_three_strategies_are_tested_together_first():
    rng = np.random.default_rng(0)
    low = rng.normal(0, 1, 20)
    frame = finals_frame({"a": list(low), "b": list(low + 5), "c": list(low + 9)})
    first = verdict(frame).splitlines()[0]
    assert first == "20 seeds, 3 strategies: they differ at 1 trials (Friedman's test, p < 0.001)."


@pytest.mark.slow
def test_a_strategy_under_two_names_is_called_different_one_time_in_twenty():
    rng = np.random.default_rng(0)

    def searches() -> list[float]:
        return [min(bowl(TOY_SPACE.sample(rng)) for _ in range(5)) for _ in range(12)]

    called = 0
    for _ in range(200):
        frame = finals_frame({"random": searches(), "the same": searches()})
        called += bool(separations(frame)["p"].iloc[0] <= 0.05)
    assert 3 <= called <= 19  # 10 expected; binomial, 0.2 % outside


def test_against_leaves_the_pairs_with_one_strategy():
    frame = finals_frame({name: [float(i + k) for i in range(6)] for k, name in enumerate("abc")})
    table = separations(frame, against="b")
    assert list(zip(table.a, table.b, strict=True)) == [("a", "b"), ("c", "b")]
    assert (table.smallest_p == 2 * 2.0**-5).all()
    with pytest.raises(ValueError, match=r"at least two strategies, got \['a'\]"):
        separations(finals_frame({"a": [1.0]}))


def test_the_odds_follow_the_pairs():
    table = superiority(
        curves_frame({"a": [[1.0, 1.0]] * 4, "b": [[2.0, 1.0]] * 3 + [[0.0, 0.0]]})
    )
    assert list(table.probability) == [0.75, 0.375]
    assert (table.low <= table.probability).all()
    assert (table.n_seeds == 4).all()
    # Wilson (1927) for 3 of 4: 0.3006 to 0.9544
    assert table.loc[0, ["low", "high"]].tolist() == pytest.approx([0.3006, 0.9544], abs=1e-4)


def test_strategies_without_a_shared_seed_have_no_odds():
    frame = curves_frame({"a": [[1.0]] * 3, "b": [[2.0]] * 3, "late": [[0.0]] * 3})
    frame.loc[frame.strategy == "late", "seed"] += 10
    assert superiority(frame)[["a", "b"]].to_numpy().tolist() == [["a", "b"]]
    with pytest.raises(ValueError, match="run with the same seeds, got none"):
        superiority(frame, against="late")


@pytest.mark.parametrize(("n", "truth"), [(5, 0.9), (12, 0.9), (30, 0.97)])
def test_the_odds_stay_unsure_where_all_seeds_agree(n, truth):
    coverage = 0.0
    for ahead in range(n + 1):
        runs = [[0.0]] * ahead + [[1.0]] * (n - ahead)
        row = superiority(curves_frame({"a": runs, "b": [[0.5]] * n})).iloc[0]
        coverage += binom.pmf(ahead, n, truth) * (row.low <= truth <= row.high)
    assert coverage >= 0.9  # 0.95 is asked for; a resampled interval has 0.4 to 0.65


@given(arrays(float, 8, elements=st.floats(-5, 5)))
def test_effect_size_is_bounded_and_antisymmetric(difference):
    assert -1 - 1e-12 <= effect_size(difference) <= 1 + 1e-12
    assert effect_size(-difference) == pytest.approx(-effect_size(difference))


def test_effect_size_is_extreme_when_one_always_wins():
    assert effect_size(np.array([-1.0, -2.0, 0.0])) == -1.0


def three(n: int) -> dict[str, pd.DataFrame]:
    return {
        f"task {number}": curves_frame({"c": [[3.0]] * 2, "a": [[1.0]] * 2, "b": [[2.0]] * 2})
        for number in range(n)
    }


def test_ranks_over_objectives_know_the_winner():
    ranks = rank_strategies(three(6))
    table = ranks.table
    assert list(table.index) == ["a", "b", "c"]
    assert list(table.mean_rank) == [1.0, 2.0, 3.0]
    assert list(table.times_best) == [6, 0, 0]
    assert (table.n_objectives == 6).all()
    assert ranks.friedman < 0.01
    # Demsar (2006), table 5: q = 2.343 for three strategies at 5 %
    assert ranks.critical_difference == pytest.approx(2.343 * math.sqrt(3 * 4 / 36), rel=1e-3)
    assert "6 objectives: a ranks before c (p = 0.0015, mean ranks 2.00 apart)" in str(ranks)
    assert "6 objectives: cannot separate a from b (p = 0.19" in str(ranks)


# four learners, a row each, on 14 data sets
AUC = """
0.763 0.599 0.954 0.628 0.882 0.936 0.661 0.583 0.775 1.000 0.940 0.619 0.972 0.957
0.768 0.591 0.971 0.661 0.888 0.931 0.668 0.583 0.838 1.000 0.962 0.666 0.981 0.978
0.771 0.590 0.968 0.654 0.886 0.916 0.609 0.563 0.866 1.000 0.965 0.614 0.975 0.946
0.798 0.569 0.967 0.657 0.898 0.931 0.685 0.625 0.875 1.000 0.962 0.669 0.975 0.970
"""


def test_nemenyi_agrees_with_another_implementation():
    rows = [[float(word) for word in line.split()] for line in AUC.split("\n") if line]
    frames = {
        f"task {number}": curves_frame(
            {name: [[-value]] * 2 for name, value in zip("abcd", values, strict=True)}
        )
        for number, values in enumerate(zip(*rows, strict=True))
    }
    ranks = rank_strategies(frames)
    # 2.569 sqrt(4 * 5 / (6 * 14)), by table 5 of Demsar (2006)
    assert ranks.critical_difference == pytest.approx(1.2536, abs=5e-4)
    # as scikit-posthocs 0.17.1 has them
    expected = {"b": 0.088673, "c": 0.971686, "d": 0.061683}
    assert ranks.p.loc["a", list("bcd")].to_dict() == pytest.approx(expected, abs=1e-5)
    assert ranks.p.loc["b", "d"] == pytest.approx(0.998882, abs=1e-5)


def test_a_group_without_a_difference_is_the_largest_of_its_kind():
    ranks = rank_strategies(three(6))
    assert ranks.inseparable == [(1.0, 2.0), (2.0, 3.0)]
    apart = rank_strategies(three(20))
    assert apart.inseparable == []
    assert (apart.p.to_numpy() == apart.p.to_numpy().T).all()


def test_two_objectives_cannot_tell_strategies_apart_and_it_says_so():
    assert "2 objectives cannot tell the strategies apart (Friedman's test, p = 0.14)" in str(
        rank_strategies(three(2))
    )
    with pytest.raises(ValueError, match="ranks need 2 objectives that share 3 strategies, got 1"):
        rank_strategies(three(1))


def test_friedman_needs_strategies_that_differ():
    assert friedman(np.ones((5, 3))) == 1.0
    assert math.isnan(friedman(np.ones((5, 2))))
    assert friedman(np.arange(15.0).reshape(5, 3)) < 0.01


def test_many_pairs_are_told_by_strategy():
    low = [0.1 + i / 1000 for i in range(12)]
    values = {"a": low, "b": low, "c": [x + 0.1 for x in low], "d": [x + 0.2 for x in low]}
    lines = verdict(finals_frame(values)).splitlines()
    assert len(lines) == 5
    assert lines[1].startswith("a ends below: c (p = 0.0")
    assert lines[1].endswith("cannot be told from: b (p = 1; more than 1,000 seeds)")
    assert lines[4] == "d ends below: none"
