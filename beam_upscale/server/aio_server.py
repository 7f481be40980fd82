"""The server of grpc.aio, but for the one request with which a stranger could end it.

grpc.aio reads the name of every method that is not registered as UTF-8, in the loop that takes all
calls: a path that is none ends this loop and with it the server, and no key is needed for that.
Here methods are registered, so that gRPC's core compares their names byte by byte, and calls of all
others are refused without a look at what they call.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import grpc.aio
from grpc._cython import cygrpc
from grpc.aio import _server


class AioServer(_server.Server):
    """As `grpc.aio.server` gives it. Belongs to the event loop that it is made in.

    Args:
        methods: handlers by the paths of their methods.
        options: of its connections.
        interceptors: that stand before its methods.
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
    """Waits for calls of registered methods, as it is, and for all others with `_refuse`."""

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
            # A loop alone does not keep its tasks.
            self._refusals.add(task)
            task.add_done_callback(self._refusals.discard)
