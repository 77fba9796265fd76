"""Parse and run the command line: `python -m hpo_lib new | run | studies | findings | clean`."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, cast

from hpo_lib.checks import check_extra
from hpo_lib.exceptions import MissingExtraError, PathError, RunError
from hpo_lib.files import disk_used, project_folder, shown, user_path
from hpo_lib.runner.notebooks import find_notebooks, notebooks_folder
from hpo_lib.runner.project import new_project

if TYPE_CHECKING:
    from hpo_lib.runner.record import RunRecord

_FAILED, _REFUSED, _INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 1 (failed), 2 (refused) or 130 (interrupted)."""
    chosen = _parser().parse_args(arguments)
    try:
        return chosen.command(chosen)
    except (RunError, PathError, MissingExtraError) as error:
        print(f"hpo_lib: {error}", file=sys.stderr)
        return _REFUSED
    except OSError as error:  # a name that is too long, a folder that may not be read, a full disk
        print(f"hpo_lib: {error}", file=sys.stderr)
        return _FAILED
    except KeyboardInterrupt:
        print("\nhpo_lib: interrupted", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m hpo_lib", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")

    new = commands.add_parser("new", help="begin a project: a folder with all notebooks")
    new.set_defaults(command=_new)
    new.add_argument("folder", help="a new or an empty one")

    run = commands.add_parser("run", help="execute the notebooks and write a report")
    run.set_defaults(command=_run)
    run.add_argument("notebooks", nargs="*", help="numbers, names or paths (default: all)")
    run.add_argument(
        "--profile", default="quick", help="smoke, quick, laptop or full (default: quick)"
    )
    run.add_argument("--data", help="digits, cifar10, cifar100 or folder:<path>; -p data")
    run.add_argument("--into", type=Path, help="go on in the folder of an earlier run")
    run.add_argument(
        *("-p", "--parameter"),
        nargs=2,
        action="append",
        default=[],
        metavar=("name", "value"),
        help="hand a value to each notebook that declares the name; may be repeated",
    )

    studies = commands.add_parser("studies", help="list studies, or do something to one")
    studies.set_defaults(command=_studies)
    studies.add_argument("--storage", default="results/studies.db", help="an SQLite file or a URL")
    one = studies.add_mutually_exclusive_group()
    one.add_argument("--delete", metavar="NAME", help="delete this study and its checkpoints")
    one.add_argument(
        "--change-space",
        nargs=2,
        metavar=("NAME", "FILE"),
        help="let this study go on in the search space of a YAML file",
    )
    one.add_argument(
        "--promote",
        nargs=2,
        metavar=("NAME", "NUMBER"),
        help="let a pruned trial of this study go on when it is run again",
    )
    one.add_argument(
        "--note", nargs=2, metavar=("NAME", "TEXT"), help="write a note to this study"
    )
    one.add_argument(
        "--best", metavar="NAME", help="print the best configuration of this study as YAML"
    )

    found = commands.add_parser("findings", help="say what a study found")
    found.set_defaults(command=_findings)
    found.add_argument("name", nargs="?", help="the study (default: the only one there is)")
    found.add_argument("--storage", default="results/studies.db", help="an SQLite file or a URL")
    found.add_argument("--final", type=Path, help="final trainings on test images, a CSV file")
    found.add_argument("--json", action="store_true", help="print JSON")

    clean = commands.add_parser("clean", help="show the disk that runs and studies use; free it")
    clean.set_defaults(command=_clean)
    clean.add_argument(
        "--yes", action="store_true", help="delete what hpo_lib wrote below results/"
    )
    return parser


def _new(chosen: argparse.Namespace) -> int:
    folder = user_path(chosen.folder)
    names = new_project(folder)
    print(f"{shown(folder)} has notebooks {names[0]} to {names[-1]}. To go on:")
    print(f"  cd {shlex.quote(shown(folder))}")
    print("  python -m hpo_lib run --profile smoke   # each notebook in seconds")
    print("  jupyter lab")
    return 0


def _run(chosen: argparse.Namespace) -> int:
    check_extra("notebooks", "python -m hpo_lib run")

    # Slow to import, and of no use to the other commands.
    from hpo_lib.runner.record import read_findings
    from hpo_lib.runner.run import run_notebooks

    # A batch system ends a job with SIGTERM: then, too, copies and report are to be written.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    parameters: dict[str, str] = dict(chosen.parameter)
    if chosen.data is not None:
        parameters["data"] = chosen.data

    folder, record, remaining = run_notebooks(
        chosen.notebooks, profile=chosen.profile, parameters=parameters, into=chosen.into
    )
    try:
        print(read_findings(folder).headline(5))
    except RunError as error:
        print(error)
    print(f"report: {shown(folder / 'report.html')}", flush=True)
    if not remaining:
        return 0

    flags = [word for pair in parameters.items() for word in ("-p", *pair)]
    again = ["--profile", chosen.profile, *flags, "--into", shown(folder), *remaining]
    for line in _describe_failure(folder, record, remaining[0]):
        print(line, file=sys.stderr)
    print(f"  to go on from there: python -m hpo_lib run {shlex.join(again)}", file=sys.stderr)
    is_interrupted = record.notebooks[remaining[0]].status == "interrupted"
    return _INTERRUPTED if is_interrupted else _FAILED


def _describe_failure(folder: Path, record: RunRecord, name: str) -> Iterator[str]:
    """Yield lines on why a notebook did not end well, and where to look."""
    run = record.notebooks[name]
    cell = f" in cell [{run.cell}]" if run.cell else ""
    yield f"hpo_lib: {name} {run.status}{cell}: {run.error}"
    yield f"  what it had done: {shown(folder / name)}.ipynb"

    # Notebooks read what those before them wrote into the folder.
    numbered = [notebook.name for notebook in find_notebooks(notebooks_folder())]
    earlier = [other for other in numbered if other < name]
    missing = [other for other in earlier if other not in record.notebooks]
    if missing:
        yield f"  notebooks that it may read from have not run here: {', '.join(missing)}"


def _studies(chosen: argparse.Namespace) -> int:
    from hpo_lib.exceptions import StudyError
    from hpo_lib.study.catalog import list_studies

    try:
        if chosen.best is not None:
            return _print_best(chosen.best, chosen.storage)
        _steer(chosen)
        frame = list_studies(chosen.storage)
    except (StudyError, ValueError) as error:
        raise RunError(str(error)) from error

    print(frame.to_string() if len(frame) else "no studies")
    return 0


def _steer(chosen: argparse.Namespace) -> None:
    """Do the one thing to a study that was asked for, if any."""
    from hpo_lib.space.search_space import SearchSpace
    from hpo_lib.study.catalog import delete_study
    from hpo_lib.study.steering.notes import annotate
    from hpo_lib.study.steering.promotion import promote
    from hpo_lib.study.steering.versions import change_space

    storage = chosen.storage
    if chosen.delete is not None:
        delete_study(chosen.delete, storage)
        print(f"deleted study {chosen.delete}")
    elif chosen.change_space is not None:
        name, file = chosen.change_space
        change_space(name, SearchSpace.load(file), storage=storage)
        print(f"study {name} goes on in the space of {file}")
    elif chosen.promote is not None:
        name, number = chosen.promote
        if not number.isdecimal():
            message = f"the number of a trial must be a whole number, got {number!r}"
            raise RunError(message)
        promote(name, int(number), storage=storage)
        print(f"trial {number} of study {name} goes on when the study is run again")
    elif chosen.note is not None:
        name, text = chosen.note
        annotate(name, note=text, storage=storage)


def _print_best(name: str, storage: str) -> int:
    from hpo_lib.space.yaml_io import format_configuration
    from hpo_lib.study.catalog import open_study
    from hpo_lib.trials import incumbent

    best = incumbent(open_study(name, storage))
    if best is None:
        message = f"study {name!r} has no trial that ran to its end"
        raise RunError(message)
    print(format_configuration(best.configuration), end="")
    return 0


def _findings(chosen: argparse.Namespace) -> int:
    # Slow to import, and of no use to the other commands.
    import pandas as pd

    from hpo_lib.assessment.run import findings
    from hpo_lib.exceptions import StudyError
    from hpo_lib.study.catalog import list_studies, open_study
    from hpo_lib.study.retrain import retrained_frame
    from hpo_lib.study.storage import storage_name
    from hpo_lib.trials import incumbent

    try:
        names = [chosen.name] if chosen.name else list(list_studies(chosen.storage)["name"])
        if len(names) != 1:
            place = storage_name(chosen.storage)
            message = f"name one of the studies at {place}: {', '.join(names) or 'none'}"
            raise RunError(message)

        study = open_study(names[0], chosen.storage)
        final = None if chosen.final is None else pd.read_csv(user_path(str(chosen.final)))
        has_best = incumbent(study) is not None
        retrained = retrained_frame(names[0], chosen.storage) if has_best else None
        found = findings(study, final=final, retrained=retrained)
    except (StudyError, ValueError) as error:
        raise RunError(str(error)) from error

    print(found.to_json() if chosen.json else found)
    return 0


def _clean(chosen: argparse.Namespace) -> int:
    # Slow to import, and of no use to the other commands.
    from hpo_lib.runner.cleaning import check_idle, delete, find_written, other_version

    results = project_folder() / "results"
    with ExitStack() as locks:
        if chosen.yes:
            check_idle(results, locks)

        written, others = find_written(results)
        sizes = [disk_used(path) / 1e6 for path in written]
        for path, size in zip(written, sizes, strict=True):
            print(f"{size:10.1f} MB  {shown(path)}")
        print(f"{sum(sizes):10.1f} MB  in all")
        for path in others:
            print(f"{other_version(path) or 'not written by hpo_lib'}, left alone: {shown(path)}")

        if chosen.yes:
            for path in written:
                delete(path)
    if written:
        print("deleted" if chosen.yes else "to delete all this: python -m hpo_lib clean --yes")
    return 0


if __name__ == "__main__":
    for stream in (sys.stdout, sys.stderr):  # file names need not be text
        cast("TextIOWrapper", stream).reconfigure(errors="backslashreplace")
    sys.exit(main())
