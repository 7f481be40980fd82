"""The default of a hold's lease, apart from the code of holds, so that help texts load quickly."""

DEFAULT_LEASE_SECONDS = 30.0
"""Seconds without a sign of life after which another run may take an output over."""
