"""Write notes and tags to studies and trials."""

from __future__ import annotations

from collections.abc import Sequence

from hpo_lib.exceptions import StudyError
from hpo_lib.study.catalog import study_to_write
from hpo_lib.study.storage import Storage
from hpo_lib.trials import Note, read_notes, write_note


def annotate(
    name: str,
    number: int | None = None,
    *,
    note: str | None = None,
    tags: Sequence[str] | None = None,
    storage: Storage | None = None,
) -> Note:
    """Write a note or tags to a study, or to one of its trials, also while it runs.

    They are columns of `list_studies` and `trials_frame`, and so of a CSV made of these.

    Args:
        name: the study's name.
        number: number of the trial; None for the study itself.
        note: free text; None leaves it as it is, an empty one removes it.
        tags: words; None leaves them as they are, an empty list removes them.
        storage: as in `run_study`.

    Returns:
        What is written now.

    Raises:
        StudyError: there is no such study or trial.
        TypeError: `tags` is a text and no list.

    Example:
        >>> import optuna
        >>> space = SearchSpace.from_yaml("x: {type: float, low: 0.0, high: 1.0}")
        >>> options = {"name": "demo", "storage": optuna.storages.InMemoryStorage()}
        >>> study = run_study(lambda c: c["x"], space, "random", 3, workers=0, **options)
        >>> annotate("demo", 1, note="looks odd", tags=["check"], storage=options["storage"])
        Note(text='looks odd', tags=('check',))
        >>> trials_frame(study)["note"].tolist()
        ['', 'looks odd', '']
    """
    if isinstance(tags, str):
        message = f"tags must be a list of words, got {tags!r}"
        raise TypeError(message)

    with study_to_write(name, storage) as (study, _):
        n_trials = len(study.get_trials(deepcopy=False))
        if number is not None and not 0 <= number < n_trials:
            message = f"study {name!r} has trials 0 to {n_trials - 1}, got {number}"
            raise StudyError(message)

        before = read_notes(study).get(number, Note())
        text = before.text if note is None else note
        words = before.tags if tags is None else tuple(dict.fromkeys(tags))
        write_note(study, number, Note(text, words))
    return Note(text, words)
