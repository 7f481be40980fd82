"""A file that a child holds: its header first, then its pixels, or nothing more."""

import functools

from beam_upscale.images.decoding import exchanges
from beam_upscale.images.decoding.child_process import Child, Exchange
from beam_upscale.images.decoding.exchanges import Decoders
from beam_upscale.images.decoding.replies import receive_image
from beam_upscale.images.reading.inspection import check_acceptable
from beam_upscale.images.values import DecodedImage, ImageHeader
from beam_upscale.planning.plan_options import Animated


class OpenedImage:
    """The bytes of an image file, which a child holds once it has read their header.

    Attributes:
        header: the header of the file.
    """

    def __init__(
        self,
        children: Decoders,
        data: bytes,
        *,
        header: ImageHeader | None,
        header_seconds: float,
        seconds: float,
    ) -> None:
        """Reads the header in a child, unless it is known.

        Args:
            children: the children of a pool, one of which this thread may have.
            data: a whole file.
            header: the header of these bytes; None reads it.
            header_seconds: the longest that reading the header may take.
            seconds: the longest that decoding may take.

        Raises:
            ImageError, BrokenProcessError: as `DecoderPool.read_header`.
        """
        self._children = children
        self._data = data
        self._seconds = seconds
        self._child: Child | None = None
        if header is None:
            self._child, header = exchanges.hold(children, data, header_seconds)
        self.header = header

    def decode(self, *, max_pixels: int, animated: Animated = Animated.FIRST) -> DecodedImage:
        """Decodes the image, in the child that holds it if there is one.

        Raises:
            ImageError, BrokenProcessError: as `DecoderPool.decode`.
        """
        request = {"request": "decode", "max_pixels": max_pixels, "animated": animated}
        exchange = Exchange(request, self._seconds, [self._data])
        receive = functools.partial(receive_image, max_pixels)
        holding, self._child = self._child, None
        return exchanges.ask(self._children, exchange, receive, holding)

    def close(self) -> None:
        """Makes the child free for other images, if it still holds this one."""
        child, self._child = self._child, None
        if child is not None:
            exchanges.let_go(self._children, child, self._seconds)


class ImageAtHand:
    """An image that is decoded already, in the place of an `OpenedImage`.

    Attributes:
        header: the header of its file.
    """

    def __init__(self, image: DecodedImage) -> None:
        self._image = image
        self.header = image.header

    def decode(self, *, max_pixels: int, animated: Animated = Animated.FIRST) -> DecodedImage:
        """Returns the image.

        Args:
            max_pixels: the most pixels that the file may claim.
            animated: as it was decoded.

        Raises:
            ImageError: TOO_MANY_PIXELS.
        """
        check_acceptable(self.header, max_pixels, animated)
        return self._image
