"""Defaults of a run's options, where help texts can name them without importing what runs."""

DEFAULT_GRACE_SECONDS = 25.0
"""Kubernetes gives 30 seconds between SIGTERM and SIGKILL, Slurm likewise."""

DEFAULT_LEASE_SECONDS = 30.0
"""Seconds without a sign of life after which another run may take an output over."""

DEFAULT_SHARD_ROWS = 1000
"""Rows in a shard."""
