"""Runs on a Dask cluster: the client here, and the work on a worker."""
