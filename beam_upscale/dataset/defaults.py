"""Defaults of a run's options, where help texts can name them without importing what runs."""

DEFAULT_GRACE_SECONDS = 25.0
"""Kubernetes gives 30 seconds between SIGTERM and SIGKILL, Slurm likewise."""

DEFAULT_SHARD_ROWS = 1000
"""Rows in a shard."""
