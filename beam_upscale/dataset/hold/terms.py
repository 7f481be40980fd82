"""The terms of a run's hold on an output: values that all its processes share."""

import dataclasses

from beam_upscale.dataset.hold.defaults import DEFAULT_LEASE_SECONDS
from beam_upscale.dataset.hold.owners import Kind


@dataclasses.dataclass(frozen=True)
class Terms:
    """The output, the run, and the way in which other runs find out whether it is still alive.

    Attributes:
        root: the root of the output.
        token: the run's token.
        kind: the way in which other runs find out whether it is still alive.
        lease_seconds: the seconds without a sign of life after which a run with a lease is gone.
        begun_on: for a user's own pipeline, whose workers take the output themselves: the SHA-256
            of `run.json` when the pipeline was constructed, empty if there was none. None if
            `Hold.acquire` takes the output.
    """

    root: str
    token: str
    kind: Kind = Kind.LEASE
    lease_seconds: float = DEFAULT_LEASE_SECONDS
    begun_on: str | None = None

    @property
    def is_taken_by_workers(self) -> bool:
        """True if the workers take the output, and not the process that starts the pipeline."""
        return self.begun_on is not None
