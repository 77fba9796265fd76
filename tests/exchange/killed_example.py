"""Run an example with a small budget, as it is or until it has trained a number of epochs.

`python killed_example.py EXAMPLE BUDGET EPOCHS`: with 0 epochs it runs to its end, in a worker as
the example has it; else it trains in this process, which dies after so many.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from itertools import count

import hpo_lib
from hpo_lib import loop

example, budget, limit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
epochs = count(1)
train_epoch = loop._train_epoch
run_study = hpo_lib.run_study


def train_epoch_or_die(*arguments):
    train_epoch(*arguments)
    if next(epochs) == limit:
        os.kill(os.getpid(), signal.SIGKILL)


def run_small_study(*arguments, **options):
    workers = {"workers": 0} if limit else {}
    return run_study(*arguments, **{**options, **workers, "budget": budget})


loop._train_epoch = train_epoch_or_die
hpo_lib.run_study = run_small_study
runpy.run_path(example, run_name="__main__")
