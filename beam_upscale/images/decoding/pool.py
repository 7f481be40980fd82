"""A pool of child processes that decode images, and the requests that they take."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

from beam_upscale.images.decoding import child_process, exchanges, small_images
from beam_upscale.images.decoding.child_process import Child, Exchange
from beam_upscale.images.decoding.opened import ImageAtHand, OpenedImage
from beam_upscale.images.decoding.replies import (
    ConsumerError,
    Receive,
    receive_bands,
    receive_header,
    receive_image,
    receive_picture,
    receive_region,
)
from beam_upscale.images.processes.child import usable_cores
from beam_upscale.images.processes.pool import ProcessPool, SharedPool
from beam_upscale.images.reading.row_readers import Picture
from beam_upscale.images.values import DecodedImage, ImageHeader, Pixels
from beam_upscale.planning.plan_options import Animated
from beam_upscale.planning.tile_layout import Box

DEFAULT_TIMEOUT_SECONDS = 300.0
HEADER_TIMEOUT_SECONDS = 30.0
"""The longest that reading a header may take, where pixels may take longer."""

T = TypeVar("T")


class DecoderPool(ProcessPool[Child]):
    """Child processes that decode images; safe to use from any number of threads."""

    def __init__(
        self,
        max_processes: int,
        timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS,
        *,
        command: Sequence[str] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            max_processes: the most children at a time, at least 1.
            timeout_seconds: the longest that one image may take; a header takes
                `HEADER_TIMEOUT_SECONDS` at most.
            command: the command that starts a child; None for `CHILD_COMMAND`.
        """
        command = command or child_process.CHILD_COMMAND
        super().__init__(exchanges.DECODER, Child, command, max_processes, timeout_seconds)
        self._timeout_seconds = timeout_seconds
        self._header_seconds = min(timeout_seconds, HEADER_TIMEOUT_SECONDS)

    def decode(
        self, data: bytes, *, max_pixels: int, animated: Animated = Animated.FIRST
    ) -> DecodedImage:
        """Decodes an image in a child, as `pixels.decode` does.

        Raises:
            ImageError: as `pixels.decode`; also DECODER_CRASHED (two children ended on this input),
                DECODER_TIMEOUT and OUT_OF_MEMORY.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {"request": "decode", "max_pixels": max_pixels, "animated": animated}
        return self._ask(request, data, functools.partial(receive_image, max_pixels))

    def decode_small(
        self, files: Sequence[bytes], *, animated: Animated = Animated.FIRST
    ) -> list[DecodedImage | None]:
        """Decodes small images in one exchange with a child, as far as that succeeds.

        Args:
            files: whole files, of `small_images.MOST_FILE_BYTES` at most.
            animated: whether a file of several frames gives its first or is refused.

        Returns:
            For each file its image as `decode` gives it; or None: it is damaged, refused or no
            small image, or the child was lost. Then it is to be asked for alone.

        Raises:
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        exchange = Exchange(small_images.request_of(animated), self._header_seconds, files)
        receive = functools.partial(small_images.receive_images, len(files))
        with self._slots:
            found = exchanges.ask_once(self.children, exchange, receive)
        return [None] * len(files) if found is None else found

    @contextlib.contextmanager
    def opened(
        self, data: bytes, header: ImageHeader | None = None, image: DecodedImage | None = None
    ) -> Iterator[OpenedImage | ImageAtHand]:
        """Passes a file to a child once, to read its header and then, if wanted, its pixels.

        The child is this image's until its pixels are there or the context ends, so that a caller
        only decides within it, and asks this pool for nothing else there.

        Args:
            data: a whole file.
            header: the header of these bytes, if it has been read before; None reads it.
            image: their image, if `decode_small` has decoded it; no child is asked then.

        Raises:
            ImageError, BrokenProcessError: as `read_header`.
        """
        if image is not None:
            yield ImageAtHand(image)
            return
        with self._slots:
            opened = OpenedImage(
                self.children,
                data,
                header=header,
                header_seconds=self._header_seconds,
                seconds=self._timeout_seconds,
            )
            try:
                yield opened
            finally:
                opened.close()

    def read_header(self, data: bytes) -> ImageHeader:
        """Reads an image's header in a child, as `inspection.read_header` does.

        Raises:
            ImageError: as `inspection.read_header`; also DECODER_CRASHED, DECODER_TIMEOUT and
                OUT_OF_MEMORY as in `decode`.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        return self._ask({"request": "header"}, data, receive_header, self._header_seconds)

    def read_file_header(self, path: Path) -> ImageHeader:
        """Reads a file's header in a child, as `regions.read_file_header` does.

        Raises:
            ImageError: as `read_header`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {"request": "file_header", "path": _name(path)}
        return self._ask(request, None, receive_header, self._header_seconds)

    def read_picture(self, path: Path, *, max_pixels: int, animated: Animated) -> Picture:
        """Reads the description of a file's picture, without its pixels, in a child.

        Raises:
            ImageError: as `decode`, for errors that show before pixels are read; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {
            "request": "picture",
            "path": _name(path),
            "max_pixels": max_pixels,
            "animated": animated,
        }
        return self._ask(request, None, functools.partial(receive_picture, max_pixels))

    def read_region(
        self, path: Path, box: Box, *, max_pixels: int, animated: Animated
    ) -> tuple[Picture, Pixels]:
        """Reads a region of a `by_region` picture in a child, as `PictureReader.region` does.

        Raises:
            ImageError: as `decode`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
        """
        request = {
            "request": "region",
            "path": _name(path),
            "box": dataclasses.astuple(box),
            "max_pixels": max_pixels,
            "animated": animated,
        }
        receive = functools.partial(receive_region, max_pixels, box)
        return self._ask(request, None, receive)

    def read_bands(
        self,
        path: Path,
        height: int,
        consume: Callable[[Picture, Iterator[Pixels]], T],
        *,
        max_pixels: int,
        animated: Animated,
    ) -> T:
        """Reads all rows of a picture in a child, in bands, and passes them to `consume`.

        Args:
            path: the picture's file.
            height: rows of each array but the last, at least 1.
            consume: takes the picture and its rows. It is called again if a child was lost.
            max_pixels: the most pixels (width times height) that the file may claim.
            animated: whether a file of several frames gives its first or is refused.

        Returns:
            The result of `consume`.

        Raises:
            ImageError: as `decode`; READ_ERROR.
            BrokenProcessError: DECODER_UNAVAILABLE: no child can be started.
            OSError: of `FULL_DISK`, the child's temporary folder has no space for the picture.
            Exception: any that `consume` raises.
        """
        request = {
            "request": "bands",
            "path": _name(path),
            "height": height,
            "max_pixels": max_pixels,
            "animated": animated,
        }
        receive = functools.partial(
            receive_bands, max_pixels, height, self._timeout_seconds, consume
        )
        try:
            return self._ask(request, None, receive)
        except ConsumerError as error:
            assert error.__cause__ is not None
            raise error.__cause__ from None

    def _ask(
        self,
        request: dict[str, Any],
        data: bytes | None,
        receive: Receive[T],
        seconds: float | None = None,
    ) -> T:
        exchange = Exchange(
            request, seconds or self._timeout_seconds, () if data is None else [data]
        )
        with self._slots:
            return exchanges.ask(self.children, exchange, receive)


def _name(path: Path) -> str:
    """Returns a file's absolute name, for a child, which works in another folder."""
    return str(path.absolute())


_SHARED = SharedPool(lambda: DecoderPool(usable_cores()), lambda: child_process.CHILD_COMMAND)


def shared_pool() -> DecoderPool:
    """Returns the process's own pool, with as many children as there are cores to run on."""
    return _SHARED.get()
