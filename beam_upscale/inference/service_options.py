"""The options of calls to engines behind the gRPC API."""

import dataclasses

from beam_upscale.planning.ranges import check_at_least, check_positive

API_KEY_VARIABLE = "BEAM_UPSCALE_API_KEY"
"""The environment variable that holds the API key if no file does."""


@dataclasses.dataclass(frozen=True)
class ServiceOptions:
    """The service to call: address, key, TLS, limits and repeats.

    Attributes:
        endpoint: HOST:PORT of the service; None if none is called.
        api_key_file: file from which workers read the API key, on any of Beam's file systems; None
            if the environment variable BEAM_UPSCALE_API_KEY of each worker holds the key, or if
            none is needed.
        ca_file: PEM of the certificate authorities to trust; None trusts the system's.
        insecure: True if plaintext may leave this machine.
        max_in_flight: most calls at a time of one worker process.
        requests_per_second: most calls that the whole job begins in a second, repeated ones
            included; shared out evenly among `worker_processes`. None sets no limit.
        worker_processes: number of the job's worker processes, if known; the local runner has one.
        deadline_seconds: time that one attempt of a call may take.
        retry_seconds: time after its first attempt in which a call may still be repeated.

    Raises:
        SettingsError: INVALID_OPTION, a number is too small.
    """

    endpoint: str | None = None
    api_key_file: str | None = None
    ca_file: str | None = None
    insecure: bool = False
    max_in_flight: int = 64
    requests_per_second: float | None = None
    worker_processes: int | None = None
    deadline_seconds: float = 300.0
    retry_seconds: float = 600.0

    def __post_init__(self) -> None:
        check_at_least(1, max_in_flight=self.max_in_flight, worker_processes=self.worker_processes)
        check_positive(
            deadline_seconds=self.deadline_seconds,
            requests_per_second=self.requests_per_second,
            retry_seconds=self.retry_seconds,
        )
