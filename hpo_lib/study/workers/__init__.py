"""Evaluate segments: in this process, in local processes, on a Dask cluster.

base: the interface `Workers`, and one segment evaluated. factory: workers from what a user writes.
local: `LocalWorkers`. Its parts: processes (a warm process as its driver sees it), worker_process
    (what runs in it), pickling (objectives as bytes).
dask_cluster: `DaskWorkers`.
"""
