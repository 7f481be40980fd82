"""Defaults of a run's options, apart from the code that runs, so that help texts load quickly."""

DEFAULT_GRACE_SECONDS = 25.0
"""Seconds; Kubernetes and Slurm give 30 between SIGTERM and SIGKILL."""

DEFAULT_SHARD_ROWS = 1000
"""The number of rows in a shard."""
