"""A real gRPC server whose answers are a script, and images to send there."""

import collections
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import numpy as np

from beam_upscale.grpc_api.status import Refusal
from beam_upscale.grpc_api.stubs import engines_pb2
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.images.reading.pixels import decode
from beam_upscale.images.writing import encoding
from beam_upscale.inference.elements import Inference, Tile, TiledImage
from beam_upscale.inference.handlers.remote import RemoteHandler
from beam_upscale.inference.remote.pending import PendingImage
from beam_upscale.inference.remote.window import Window
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.planning.engines import get_engine
from beam_upscale.planning.tile_layout import Box

# Longer than any of this takes; what is not done by then never will be.
PATIENCE = 60

ENGINE = "esrgan-v1-x2plus"
ONE_CALL = get_engine(ENGINE).credits(1, 1)

Step = Callable[[Any, grpc.ServicerContext], Iterator[Any]]
"""What the service makes of one attempt."""


class ScriptedService:
    """A service on a port of this machine.

    Args:
        steps: of the script, one for each attempt in the order of arrival; the last goes on.
        engines: that it lists; None where it lists none.
        threads: attempts that it takes at a time.
        credentials: of a server with TLS.
        port: 0 takes a free one.
        list_engines: answers in place of what lists `engines`.

    Attributes:
        requests: that it got, in the order of arrival.
        metadata: that came with them.
        most_at_once: the most attempts that were open at a time.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        engines: Sequence[str] | None = (ENGINE,),
        threads: int = 32,
        credentials: Any = None,
        port: int = 0,
        list_engines: Callable[[Any, grpc.ServicerContext], Any] | None = None,
    ) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.most_at_once = 0
        self._steps = list(steps)
        self._engines = engines
        self._lister = list_engines or self._list_engines
        self._lock = threading.Lock()
        self._open = 0
        self._server = grpc.server(
            ThreadPoolExecutor(threads), options=[("grpc.max_receive_message_length", 2**26)]
        )
        self._server.add_generic_rpc_handlers([self._generation(), self._listing()])
        if credentials is None:
            port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        else:
            port = self._server.add_secure_port(f"127.0.0.1:{port}", credentials)
        self.endpoint = f"127.0.0.1:{port}"
        self._server.start()

    def _generation(self) -> Any:
        method = grpc.unary_stream_rpc_method_handler(
            self._generate, generation.Request.FromString, _serialized
        )
        return grpc.method_handlers_generic_handler(
            "gooseai.GenerationService", {"Generate": method}
        )

    def _listing(self) -> Any:
        method = grpc.unary_unary_rpc_method_handler(
            self._lister, engines_pb2.ListEnginesRequest.FromString, _serialized
        )
        methods = {} if self._engines is None else {"ListEngines": method}
        return grpc.method_handlers_generic_handler("gooseai.EnginesService", methods)

    def _generate(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        with self._lock:
            step = self._steps[min(len(self.requests), len(self._steps) - 1)]
            self.requests.append(request)
            self.metadata.append(dict(context.invocation_metadata()))
            self._open += 1
            self.most_at_once = max(self.most_at_once, self._open)
        try:
            yield from step(request, context)
        finally:
            with self._lock:
                self._open -= 1

    def _list_engines(self, request: Any, context: grpc.ServicerContext) -> Any:
        del request
        self.metadata.append(dict(context.invocation_metadata()))
        assert self._engines is not None
        return engines_pb2.Engines(engine=[engines_pb2.EngineInfo(id=n) for n in self._engines])

    @property
    def attempts(self) -> collections.Counter[str]:
        """How often each request came, by its id."""
        return collections.Counter(request.request_id for request in self.requests)

    def stop(self) -> None:
        """Ends the server and what is open on it."""
        self._server.stop(0).wait(PATIENCE)


def _serialized(message: Any) -> bytes:
    return message if isinstance(message, bytes) else message.SerializeToString()


def doubled(pixels: np.ndarray) -> np.ndarray:
    """What the scripted service makes of pixels."""
    return pixels.repeat(2, axis=0).repeat(2, axis=1)


def sent(request: Any) -> np.ndarray:
    """The pixels of a request."""
    return decode(request.prompt[0].artifact.binary, max_pixels=10**7).color


def with_artifact(png: bytes, **fields: Any) -> Any:
    """An answer with a result."""
    artifact = generation.Artifact(type=generation.ARTIFACT_IMAGE, binary=png, **fields)
    return generation.Answer(artifacts=[artifact])


def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
    """The image at twice its size, after a word that the call is alive."""
    del context
    yield generation.Answer(request_id=request.request_id)
    yield with_artifact(encoding.encode(doubled(sent(request))).data)


def answer_with(*answers: Any) -> Step:
    """These answers, whatever is asked."""

    def step(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        del request, context
        yield from answers

    return step


def finish(reason: int) -> Step:
    """An artifact that ends for a reason."""
    artifact = generation.Artifact(type=generation.ARTIFACT_IMAGE, finish_reason=reason)
    return answer_with(generation.Answer(artifacts=[artifact]))


def refuse(code: grpc.StatusCode, message: str = "no", **details: Any) -> Step:
    """A status, with details where some are given."""

    def step(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        del request
        context.set_trailing_metadata(Refusal(code, message, **details).trailing_metadata())
        context.abort(code, message)
        yield

    return step


def after(step: Step, code: grpc.StatusCode) -> Step:
    """A status after what another step answers."""

    def broken(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        yield from step(request, context)
        context.abort(code, "broken off")

    return broken


class Held:
    """A step that waits before it does what another does.

    Attributes:
        begun: set when an attempt has arrived there.
        go_on: lets all go on.
    """

    def __init__(self, step: Step = answer) -> None:
        self.begun = threading.Event()
        self.go_on = threading.Event()
        self._step = step

    def __call__(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        self.begun.set()
        assert self.go_on.wait(PATIENCE)
        yield from self._step(request, context)


def noise(height: int = 6, width: int = 8, channels: int = 3, dtype: Any = np.uint8) -> np.ndarray:
    """Pixels of no image in particular."""
    shape = height, width, channels
    return np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape, dtype)


def whole(name: str, pixels: np.ndarray | None = None, tiles: int = 1, **fields: Any) -> TiledImage:
    """An image of equal tiles without a halo."""
    pixels = noise() if pixels is None else pixels
    core = Box(0, 0, pixels.shape[1], pixels.shape[0])
    fields = {"identity": (name, 0), **fields}
    return TiledImage([Tile(pixels, core) for _ in range(tiles)], scale=2, **fields)


def engine_of(service: ScriptedService, **fields: Any) -> RemoteEngine:
    """How the service is called."""
    return RemoteEngine(ENGINE, service.endpoint, **fields)


def handler_of(service: ScriptedService, **fields: Any) -> RemoteHandler:
    """The handler of images for the service."""
    return RemoteHandler(engine_of(service, **fields), get_engine(ENGINE))


def begin(
    handler: RemoteHandler, images: Sequence[TiledImage], window: Window | None = None
) -> list[PendingImage]:
    """What `run_inference` gives for images."""
    window = handler.load_model() if window is None else window
    results = list(handler.run_inference(images, window))
    assert [result.example for result in results] == list(images)
    return [result.inference for result in results]


def infer(
    handler: RemoteHandler, images: Sequence[TiledImage], window: Window | None = None
) -> list[Inference]:
    """What becomes of images."""
    pending = begin(handler, images, window)
    assert all(each.wait(PATIENCE) for each in pending)
    return [each.result() for each in pending]


@contextlib.contextmanager
def service_with(*steps: Step, **options: Any) -> Iterator[ScriptedService]:
    """A service for a while; without steps it answers."""
    service = ScriptedService(steps or [answer], **options)
    try:
        yield service
    finally:
        service.stop()


def codes(inferences: list[Inference]) -> list[str | None]:
    return [inference.error and inference.error.code for inference in inferences]
