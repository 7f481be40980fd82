"""The default of a hold's lease, where help texts can name it."""

DEFAULT_LEASE_SECONDS = 30.0
"""Seconds without a sign of life after which another run may take an output over."""
