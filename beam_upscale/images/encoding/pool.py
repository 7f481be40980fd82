"""A pool of child processes that encode images."""

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

from beam_upscale.errors import BrokenProcessError, ErrorCode
from beam_upscale.images.encoding.messages import (
    Message,
    answered_file,
    answered_pixels,
    answered_small,
    request_of,
    resize_request_of,
    small_request_of,
)
from beam_upscale.images.encoding.unencoded import EncodedFile, ResizedPart, UnencodedImage
from beam_upscale.images.processes.child import usable_cores
from beam_upscale.images.processes.child_process import ChildProcess
from beam_upscale.images.processes.connection import Frame, Parcel
from beam_upscale.images.processes.failures import ReportedError, reported_error
from beam_upscale.images.processes.kind import Kind
from beam_upscale.images.processes.pool import ProcessPool, SharedPool
from beam_upscale.images.processes.sealed_memory import SharedMemoryError
from beam_upscale.images.values import Pixels
from beam_upscale.planning.plan_options import OutputFormat

CHILD_COMMAND: tuple[str, ...] = (sys.executable, "-m", "beam_upscale.images.encoding")
"""The command that starts a child. Any other command has to call `main`."""

LEAST_PIXELS: Mapping[OutputFormat, int] = MappingProxyType(
    {
        OutputFormat.PNG: 96 * 96,
        OutputFormat.JPEG: 256 * 256,
        OutputFormat.WEBP: 64 * 64,
        OutputFormat.TIFF: 96 * 96,
    }
)
"""Images of fewer pixels are encoded in the process itself, in less CPU time than their exchange
takes of it, which is 0.2 ms and 2 ns a pixel (`benchmarks/encoder_exchange.py`)."""

ENOUGH_PIXELS = 256 * 256
"""Pixels of small images together; more of them gain nothing by sharing one exchange."""

LEAST_RESIZED = 160 * 160
"""Fewer pixels are resized in the process itself, for the same reason."""

TIMEOUT_SECONDS = 300.0
"""The longest that an image may take, and a second besides for every `PIXELS_A_SECOND`."""
PIXELS_A_SECOND = 100_000

_ENCODER = Kind(
    name="encoder",
    work="encoding",
    sent="picture",
    cause="memory ran out, or its encoder has a fault",
    unavailable=ErrorCode.ENCODER_UNAVAILABLE,
    lost=ErrorCode.ENCODE_ERROR,
    late=ErrorCode.ENCODE_ERROR,
)

T = TypeVar("T")


@dataclass(frozen=True)
class _Request:
    """A request, which may be sent twice.

    Attributes:
        fields: the fields of the message.
        parcel: its buffers.
        seconds: the longest that the answer may take.
    """

    fields: dict[str, Any]
    parcel: Parcel
    seconds: float

    @classmethod
    def of(cls, message: Message, pixels: int) -> "_Request":
        """Copies the buffers of a message.

        Args:
            message: the request.
            pixels: the number of pixels that it concerns.

        Raises:
            BrokenProcessError: ENCODER_UNAVAILABLE: the system lacks memory or descriptors.
        """
        fields, buffers = message
        try:
            parcel = Parcel.of(buffers)
        except SharedMemoryError as error:
            raise _ENCODER.not_passed(error) from error
        return cls(fields, parcel, TIMEOUT_SECONDS + pixels / PIXELS_A_SECOND)


class _Child(ChildProcess):
    """The parent's end of one encoder."""

    environment = MappingProxyType(
        {
            **ChildProcess.environment,
            # glibc: keep blocks of this size for the next image, up to so many bytes in all; to get
            # them from the system again takes a tenth of the time of an image.
            "MALLOC_MMAP_THRESHOLD_": str(4 << 20),
            "MALLOC_TRIM_THRESHOLD_": str(16 << 20),
        }
    )

    def ask(
        self, request: _Request, receive: Callable[[Frame], T]
    ) -> tuple[T | ReportedError, int]:
        """Sends a request; returns its result or the error, and the bytes that the child holds."""
        self.connection.send_parcel(request.fields, request.parcel)
        with self.connection.receive() as answer:
            found = reported_error(answer.fields) or receive(answer)
            return found, int(answer.fields["ready"])


class EncoderPool(ProcessPool[_Child]):
    """Child processes that encode images; safe to use from any number of threads."""

    def __init__(self, max_processes: int, *, command: Sequence[str] | None = None) -> None:
        """Starts nothing yet.

        Args:
            max_processes: the most children at a time, at least 1.
            command: the command that starts a child; None for `CHILD_COMMAND`.
        """
        super().__init__(_ENCODER, _Child, command or CHILD_COMMAND, max_processes, TIMEOUT_SECONDS)

    def expect(self, pixels: int, format_: OutputFormat) -> None:
        """Starts a child early, unless there is one, if an image of `pixels` will need it."""
        if self.is_asked(pixels, format_):
            self.start_early()

    def encode(self, make: Callable[[], UnencodedImage]) -> EncodedFile:
        """Resizes, encodes and hashes an image, as `UnencodedImage.encoded` does.

        Args:
            make: gives the image. It is called once, and its arrays are freed as soon as they are
                copied for a child.

        Raises:
            ImageError: as `UnencodedImage.encoded`; ENCODE_ERROR: two children were lost on this
                image, or it took too long; OUT_OF_MEMORY.
            BrokenProcessError: ENCODER_UNAVAILABLE: no child can be started.
            OSError: of `FULL_DISK`.
            Exception: any exception of `make`.
        """
        begun = _begun(make)
        return begun if isinstance(begun, EncodedFile) else self._ask(begun, answered_file)

    def is_asked(self, pixels: int, format_: OutputFormat) -> bool:
        """Tells whether a child encodes an image of `pixels`, not this process itself."""
        return pixels >= LEAST_PIXELS[format_]

    def encode_small(self, images: Sequence[UnencodedImage]) -> list[EncodedFile | None]:
        """Resizes, encodes and hashes images in one exchange with a child, as far as that succeeds.

        Returns:
            For each image its file as `encode` gives it; or None: its encoder failed, or the child
            was lost. Then it is to be asked for alone.

        Raises:
            BrokenProcessError: ENCODER_UNAVAILABLE: no child can be started.
        """
        failed: list[EncodedFile | None] = [None] * len(images)
        pixels = sum(image.pixels for image in images)
        receive = functools.partial(answered_small, len(images))
        try:
            return self._ask(_Request.of(small_request_of(images), pixels), receive)
        except BrokenProcessError:
            raise
        except Exception:
            return failed

    def resize(self, part: ResizedPart) -> Pixels:
        """Resizes pixels and cuts a part out, as `ResizedPart.resized` does.

        Raises:
            ImageError, BrokenProcessError: as `encode`.
        """
        height, width = part.pixels.shape[:2]
        if height * width < LEAST_RESIZED or (width, height) == (part.width, part.height):
            return part.resized()
        request = _Request.of(resize_request_of(part), height * width)
        try:
            return self._ask(request, answered_pixels)
        except OSError as error:
            raise _ENCODER.not_passed(error) from error

    def _ask(self, request: _Request, receive: Callable[[Frame], T]) -> T:
        """Makes a request, whose memory is closed then."""

        def ask_child(child: _Child) -> T:
            with self.children.working(child, request.seconds):
                answer, resident = child.ask(request, receive)
            self.children.keep(child, resident)
            if isinstance(answer, ReportedError):
                raise answer
            return answer

        with request.parcel, self._slots:
            return self.children.try_twice(ask_child)


def _begun(make: Callable[[], UnencodedImage]) -> EncodedFile | _Request:
    """Encodes an image of few pixels; copies another for its request. Its arrays are freed then."""
    image = make()
    if image.pixels < LEAST_PIXELS[image.options.format]:
        return image.encoded()
    return _Request.of(request_of(image), image.pixels)


_SHARED = SharedPool(lambda: EncoderPool(usable_cores()), lambda: CHILD_COMMAND)


def shared_encoders() -> EncoderPool:
    """Returns the process's own pool, with as many children as there are cores to run on."""
    return _SHARED.get()
