from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from hpo_lib.storage import open_storage


def test_many_threads_may_create_one_file():
    together = Barrier(6)

    def create(_):
        together.wait()
        return open_storage("new.db").get_all_studies()

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(create, range(6))) == [[]] * 6


def test_opening_waits_for_a_process_that_has_locked_the_new_file():
    with sqlite3.connect("new.db", isolation_level=None) as other:
        other.execute("BEGIN EXCLUSIVE")
        with ThreadPoolExecutor(1) as thread:
            opened = thread.submit(open_storage, "new.db")
            other.execute("COMMIT")
            assert opened.result().get_all_studies() == []
