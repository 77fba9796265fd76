from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hpo_lib.space.search_space import SearchSpace
from hpo_lib.study.run import open_study, run_study
from tests.space.test_space import quick, spaces

COMMENTED = """\
# Second round: narrower than the first.

# --- optimiser
optimizer: {type: choice, options: ['#1', sgd], default: sgd}  # adamw lost
lr: {type: float, low: 0.0001, high: 0.1, log: true, default: 0.003}       # aligned: yes # no
    # an indented line
momentum: {type: float, low: 0.5, high: 0.99, default: 0.9, when: {optimizer: sgd}}

# That is all.
"""

texts = st.text(st.characters(min_codepoint=32, max_codepoint=0x2000), max_size=20).filter(
    str.isprintable
)


def test_comments_of_a_canonical_text_stay_byte_for_byte(tmp_path: Path):
    space = SearchSpace.from_yaml(COMMENTED)
    assert space.to_yaml() == COMMENTED
    space.save(tmp_path / "space.yaml")
    assert (tmp_path / "space.yaml").read_bytes() == COMMENTED.encode()
    assert SearchSpace.load(tmp_path / "space.yaml").to_yaml() == COMMENTED


@quick
@given(spaces(), st.lists(st.tuples(texts, texts), min_size=5, max_size=5), texts)
def test_any_comments_stay_byte_for_byte(
    space: SearchSpace, comments: list[tuple[str, str]], below: str
):
    lines = zip(space.to_yaml().splitlines(), comments, strict=False)
    text = "".join(f"# {above}\n{line}  # {beside}\n" for line, (above, beside) in lines)
    text += f"# {below}\n"
    read = SearchSpace.from_yaml(text)
    assert read == space
    assert [line.rstrip() for line in read.to_yaml().splitlines()] == [
        line.rstrip() for line in text.splitlines()
    ]


def test_comments_within_a_parameter_stand_above_it():
    space = SearchSpace.from_yaml(
        "lr:            # the rate\n"
        "  type: float\n"
        "  # smaller ones diverge\n"
        "  low: 1e-4    # really\n"
        "  high: 0.1    # the end\n"
        "o: {type: choice,  # two\n"
        "    options: ['a #b', c], default: c}\n"
        "# the last line"
    )
    assert space.to_yaml(comments=False) == (
        "lr: {type: float, low: 0.0001, high: 0.1, default: 0.050050000000000004}\n"
        "o: {type: choice, options: ['a #b', c], default: c}\n"
    )
    assert space.to_yaml() == (
        "# the rate\n# smaller ones diverge\n# really\n"
        "lr: {type: float, low: 0.0001, high: 0.1, default: 0.050050000000000004}    # the end\n"
        "# two\n"
        "o: {type: choice, options: ['a #b', c], default: c}\n"
        "# the last line\n"
    )


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("--- # no\n# yes\na: {type: int, fixed: 1}\n...\n", "# yes\na: {type: int, fixed: 1}\n"),
        ("{a: {type: int, fixed: 1},  # one\n}  # two\n", "a: {type: int, fixed: 1}  # one\n"),
        ("\ufeff# head\r\na: {type: int, fixed: 1} # x\r\n", None),
        ("\n\na: {type: int, fixed: 1}\n\n\n", "a: {type: int, fixed: 1}\n"),
    ],
)
def test_nothing_but_comments_is_kept(text: str, written: str | None):
    written = written or "# head\na: {type: int, fixed: 1} # x\n"
    assert SearchSpace.from_yaml(text).to_yaml() == written


def test_comments_are_no_part_of_the_space():
    space = SearchSpace.from_yaml(COMMENTED)
    plain = SearchSpace.from_yaml(space.to_yaml(comments=False))
    assert space == plain
    assert plain.to_yaml() == space.to_yaml(comments=False)
    assert replace(plain, comments=space.comments).to_yaml() == COMMENTED


def test_a_study_goes_on_when_a_comment_changes():
    from optuna.storages import InMemoryStorage

    storage = InMemoryStorage()
    text = "x: {type: float, low: 0.0, high: 1.0, default: 0.5}"
    for n_trials, comment in enumerate(("  # first", "  # second", ""), 1):
        space = SearchSpace.from_yaml(f"{text}{comment}\n")
        run_study(
            lambda configuration: configuration["x"],
            space,
            "random",
            n_trials,
            name="commented",
            storage=storage,
            workers=0,
        )
    study = open_study("commented", storage)
    assert len(study.trials) == 3
    assert study.user_attrs["space"] == f"{text}\n"
