import asyncio
import logging
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from http2_frames import Connection

from beam_upscale.server.aio_server import AioServer

METHOD = "/test.Calls/Echo"
PATIENCE = 60.0


async def echo(_: Any, context: Any) -> None:
    await context.write(await context.read())


def serving(test: Callable[[int], None], **options: Any) -> None:
    """Runs a test in a thread, with the port of a server."""

    async def serve() -> None:
        methods = {METHOD: grpc.stream_stream_rpc_method_handler(echo)}
        server = AioServer(methods, [("grpc.so_reuseport", 0)], **options)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            await asyncio.to_thread(test, port)
        finally:
            await asyncio.wait_for(server.stop(None), PATIENCE)

    asyncio.run(serve())


def call(port: int, method: str = METHOD) -> list[bytes]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return list(channel.unary_stream(method)(b"hello", timeout=PATIENCE))


def test_registered_methods_are_served() -> None:
    def test(port: int) -> None:
        assert call(port) == [b"hello"]

    serving(test)


@pytest.mark.parametrize(
    "path", [b"/test.Calls/Nothing", b"/\xff\xfe", b"", b"/test.Calls/Echo\xc3", b"/\0"]
)
def test_other_methods_are_unimplemented_whatever_their_names_are(
    path: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    def test(port: int) -> None:
        with Connection(port) as connection:
            connection.open_stream(path)
            connection.send_message(b"hello")
            answer = connection.answer()
        assert answer.status == grpc.StatusCode.UNIMPLEMENTED.value[0]
        assert call(port) == [b"hello"]

    with caplog.at_level(logging.WARNING):
        serving(test)
    assert not caplog.records


def test_interceptors_stand_before_methods() -> None:
    seen: list[str] = []

    class Sees(grpc.aio.ServerInterceptor):
        async def intercept_service(self, continuation: Any, details: Any) -> Any:
            seen.append(details.method)
            return await continuation(details)

    def test(port: int) -> None:
        assert call(port) == [b"hello"]
        with pytest.raises(grpc.RpcError) as caught:
            call(port, "/test.Calls/Nothing")
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED

    serving(test, interceptors=[Sees()])
    assert seen == [METHOD]
