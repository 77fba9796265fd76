from __future__ import annotations

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
