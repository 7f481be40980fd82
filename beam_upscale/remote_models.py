"""Engines behind the gRPC API as they are pinned at submission: what a worker needs to call one."""

import dataclasses
from typing import Any

API_KEY_VARIABLE = "BEAM_UPSCALE_API_KEY"
"""The environment variable that holds the API key, where no file does."""


@dataclasses.dataclass(frozen=True)
class RemoteModel:
    """An engine that is called over gRPC.

    The key is not part of it: each worker reads it from its environment or from a file.

    Attributes:
        engine: its id on the service.
        endpoint: HOST:PORT.
        api_key_file: where a worker reads the key, on any of Beam's file systems; None where the
            environment holds it (`API_KEY_VARIABLE`), or where none is needed.
        insecure: plaintext, also to other machines; to this one it is plaintext without a `ca`.
        ca: PEM of the certificate authorities to trust; None trusts those of the system.
        max_in_flight: calls at a time of one process, at least 1.
        requests_per_second: calls begun in a second by one process, repeated ones included; None
            sets no limit.
        deadline_seconds: how long one attempt may take.
        retry_seconds: how long after its first attempt a call may still be repeated.
    """

    engine: str
    endpoint: str
    api_key_file: str | None = None
    insecure: bool = False
    ca: str | None = None
    max_in_flight: int = 64
    requests_per_second: float | None = None
    deadline_seconds: float = 300.0
    retry_seconds: float = 600.0

    @property
    def place(self) -> str:
        """What upscales and where, for people."""
        return f"{self.engine} at {self.endpoint}"

    def description(self) -> dict[str, Any]:
        """The columns of a manifest that say what upscales; the service does not tell."""
        return {"model": None, "weights_sha256": None, "device_type": None, "precision": None}

    def to_dict(self) -> dict[str, Any]:
        """What results depend on and can be known: where the service stands may change."""
        return {"engine": self.engine}
