"""The standard health service `grpc.health.v1`: reports whether the server takes calls."""

import asyncio
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health_pb2

from beam_upscale.grpc_api.status import Refusal
from beam_upscale.server.answers import health_answer, parse
from beam_upscale.server.refusals import RefusedError

NAME = "grpc.health.v1.Health"

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
_SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


class Health:
    """Answers of the health service.

    Args:
        services: the names of the services whose health may be requested.
        draining: set once the server begins no more calls.
    """

    def __init__(self, services: tuple[str, ...], draining: asyncio.Event) -> None:
        self._services = services
        self._draining = draining

    def check(self, data: bytes) -> bytes:
        """Answers a request for the health of a service, or of the server.

        Raises:
            RefusedError: NOT_FOUND, there is no such service; INVALID_ARGUMENT.
        """
        status = self._status(parse(health_pb2.HealthCheckRequest, data).service)
        if status == _SERVICE_UNKNOWN:
            raise RefusedError(Refusal(grpc.StatusCode.NOT_FOUND, "there is no such service"))
        return health_answer(status)

    async def watch(self, data: bytes) -> AsyncIterator[bytes]:
        """Yields the health of a service, and again when the server begins to drain.

        Raises:
            RefusedError: INVALID_ARGUMENT.
        """
        service = parse(health_pb2.HealthCheckRequest, data).service
        yield health_answer(self._status(service))
        if not self._draining.is_set():
            await self._draining.wait()
            yield health_answer(self._status(service))

    def _status(self, service: str) -> int:
        if service not in ("", *self._services):
            return int(_SERVICE_UNKNOWN)
        return int(_NOT_SERVING if self._draining.is_set() else _SERVING)
