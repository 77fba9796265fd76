"""Evaluate segments in a worker process: the code on the other end of the driver's pipe."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import asdict
from functools import lru_cache
from multiprocessing.connection import Connection

import cloudpickle

from hpo_lib.objective import Objective
from hpo_lib.processes.guard import HAS_PROCESS_GROUPS, use_one_thread
from hpo_lib.study.workers.base import describe_exception, evaluate

READY = b"ready"
"""First message of a process, when it is able to take a task."""


def serve(pipe: Connection[bytes, bytes], gpu: str | None) -> None:
    """Evaluate segments in a worker process until the driver is gone.

    Nothing of ours runs beside the objective, neither a thread nor a signal's handler, for its
    children would inherit them: limits and ends are the driver's work.

    Args:
        pipe: this process's end of the pipe to the driver.
        gpu: the one CUDA device that the objective sees; None leaves all visible.
    """
    use_one_thread()
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    if HAS_PROCESS_GROUPS:
        # A group of its own: Ctrl-C in a terminal does not reach it, and a driver that ends it
        # also finds those of an objective's children whose parent has ended.
        os.setpgid(0, 0)
        os.set_inheritable(pipe.fileno(), False)  # os.exec closes it, which the driver notices

    pid = os.getpid()
    pipe.send_bytes(READY)
    while True:
        try:
            message = pipe.recv_bytes()
        except EOFError:
            return
        answer = _answer(message)
        if os.getpid() != pid:  # a child that the objective has forked returned from it, too
            os._exit(0)
        pipe.send_bytes(answer)


def _answer(message: bytes) -> bytes:
    payload, configuration, segment = pickle.loads(message)
    try:
        objective = _load_objective(payload)
    except BaseException as error:
        return json.dumps({"refusal": describe_exception(error).reason}).encode()

    evaluation = evaluate(
        objective,
        configuration,
        segment,
        "",
        interruptible=False,
    )
    return json.dumps(asdict(evaluation)).encode()


@lru_cache(maxsize=2)
def _load_objective(payload: bytes) -> Objective:
    return cloudpickle.loads(payload)
