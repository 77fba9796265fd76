"""Evaluate segments: in this process, in local processes, on a Dask cluster."""
