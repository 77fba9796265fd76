from __future__ import annotations

import os
import subprocess
import sys

CODE = """
import threading, time
from hpo_lib.blas import one_thread
from threadpoolctl import ThreadpoolController

def limits():
    return {each["num_threads"] for each in ThreadpoolController().select(user_api="blas").info()}

first_is_inside = threading.Event()
seen = []

@one_thread
def compute(seconds):
    seen.append(limits())
    first_is_inside.set()
    time.sleep(seconds)
    seen.append(one_thread(limits)())
    if seconds == 0.1:
        raise ValueError

threads = [threading.Thread(target=compute, args=[seconds]) for seconds in (0.1, 0.3)]
for thread in threads:
    thread.start()
    first_is_inside.wait(10)
for thread in threads:
    thread.join(10)
print(seen, limits())
"""


def test_a_thread_that_ends_leaves_the_limit_of_another_one_alone():
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2", "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-c", CODE]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[{1}, {1}, {1}, {1}] {2}"
