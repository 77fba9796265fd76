from __future__ import annotations

import threading
import time

import pytest
from threadpoolctl import ThreadpoolController

from hpo_lib.blas import one_thread


def limits():
    return {each["num_threads"] for each in ThreadpoolController().select(user_api="blas").info()}


def test_a_thread_that_ends_leaves_the_limit_of_another_one_alone():
    before = limits()
    first_is_inside = threading.Event()
    seen = []

    @one_thread
    def compute(seconds):
        seen.append(limits())
        first_is_inside.set()
        time.sleep(seconds)
        seen.append(limits())

    threads = [threading.Thread(target=compute, args=[seconds]) for seconds in (0.1, 0.3)]
    for thread in threads:
        thread.start()
        assert first_is_inside.wait(10)
    for thread in threads:
        thread.join(10)
    assert seen == [{1}] * 4
    assert limits() == before


def test_the_limit_is_restored_after_an_error_and_calls_may_be_nested():
    @one_thread
    def fail():
        assert one_thread(limits)() == limits() == {1}
        message = "wrong"
        raise ValueError(message)

    before = limits()
    with pytest.raises(ValueError, match="wrong"):
        fail()
    assert limits() == before
