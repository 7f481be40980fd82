"""The server of grpc.aio, hardened against a request with which any stranger could end it.

grpc.aio decodes the name of every method that is not registered as UTF-8, in the loop that takes
all calls. A path that is not UTF-8 ends this loop and so the server, and the caller needs no key
for that. Here methods are registered, so that gRPC's core compares their names byte by byte. Calls
of all other methods are refused without decoding their names.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio
from grpc._cython import cygrpc
from grpc.aio import _server


class AioServer(_server.Server):
    """A server like that of `grpc.aio.server`. It belongs to the event loop that it is made in.

    Args:
        methods: handlers by the paths of their methods.
        options: gRPC's options for its connections.
        interceptors: the interceptors before its methods.
    """

    def __init__(
        self,
        methods: Mapping[str, Any],
        options: Sequence[tuple[str, Any]],
        interceptors: Sequence[grpc.aio.ServerInterceptor] = (),
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._server = _Core(self._loop, None, (), tuple(interceptors), tuple(options), None)
        self._server.add_registered_method_handlers(dict(methods))


class _Core(cygrpc.AioServer):
    """The core, which handles calls of registered methods as usual, and all others by `_refuse`."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._refusals: set[asyncio.Task[None]] = set()

    def _make_request_call_future(self, method: bytes | None) -> Any:
        if method is not None:
            return super()._make_request_call_future(method)
        return asyncio.get_running_loop().create_task(self._refuse())

    async def _refuse(self) -> None:
        """Answers calls of unknown methods with UNIMPLEMENTED, until the server stops."""
        loop = asyncio.get_running_loop()
        nothing = cygrpc._MethodResolver([], {})
        while True:
            call = await self._request_call()
            answer = cygrpc._handle_rpc("", nothing, (), call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answer, call, loop, ""))
            # A loop keeps only weak references to its tasks.
            self._refusals.add(task)
            task.add_done_callback(self._refusals.discard)
