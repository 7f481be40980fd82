"""A TIFF reduced to one uncompressed or plainly compressed view, for strict codecs."""

import contextlib
import io
from collections.abc import Callable
from typing import Any

import numpy as np
import pyvips
from numpy.typing import NDArray

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.codecs import forget_errors, keep
from beam_upscale.images.containers import tiff_views
from beam_upscale.images.containers.tiff import TiffInfo
from beam_upscale.images.containers.tiff_fields import Photometric
from beam_upscale.images.reading.tiff_samples import check_samples, has_8_bit_color_map, layout
from beam_upscale.images.values import Pixels


class BareTiff:
    """The raw samples of a TIFF, and their conversion to color and alpha; for `Reader.BARE`."""

    def __init__(
        self,
        info: TiffInfo,
        views: tuple[tiff_views.TiffView, ...],
        read: Callable[[int, int], bytes],
    ) -> None:
        """Opens nothing yet.

        Args:
            info: the file's fields.
            views: views of the file, from `containers.tiff_views`.
            read: returns the file's bytes, given an offset and their number.
        """
        self._info = info
        self._layout = layout(info)
        self._views = views
        self._read = read

    @property
    def colors(self) -> int:
        """Number of color samples of a pixel of `meant`: 1, 3, or 4 for CMYK."""
        return 3 if self._layout.mode == "P" else self._layout.colors

    @property
    def has_alpha(self) -> bool:
        """True if `meant` gives alpha after the color."""
        return self._layout.alpha is not None

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on samples that are not given as they are in the file."""
        if self._layout.mode == "P":
            scaled = ("8-bit palette scaled",) if has_8_bit_color_map(self._info) else ()
            return ("palette expanded", *scaled)
        if self._layout.mode in ("1", "1A"):
            return ("1-bit as 8-bit grayscale",)
        return ()

    def open(self, access: str = "sequential") -> Any:
        """Opens the file by libvips, with all samples of each pixel, of 8 or 16 bits."""
        # A view has no field that is unknown to libtiff, so its warnings mean damage.
        planes = [open_view(view, self._read, access, "warning") for view in self._views]
        joined = planes[0].bandjoin(planes[1:]) if len(planes) > 1 else planes[0]
        check_samples(joined, self._info, at_least=self._info.samples_per_pixel)
        return joined

    def meant(self, samples: Pixels) -> Pixels:
        """Turns samples into color, with alpha after it.

        Args:
            samples: (height, width, samples of a pixel).

        Returns:
            (height, width, `colors` and alpha): gray, RGB or CMYK.
        """
        full = np.iinfo(samples.dtype).max
        color = samples[..., : self._layout.colors]
        if self._info.photometric == Photometric.WHITE_IS_ZERO:
            color = full - color
        elif self._layout.mode == "P":
            color = self._palette()[color[..., 0] // (full // (2**self._info.bits_per_sample - 1))]
        if self._layout.alpha is None:
            return color
        alpha = samples[..., self._layout.alpha, np.newaxis]
        if self._layout.is_associated:
            color = _divided(color, alpha)
        return np.concatenate([color, alpha], axis=2)

    def _palette(self) -> NDArray[np.uint8]:
        """Returns the palette in 8 bits, (entries, 3), reduced as by Pillow."""
        entries = 2**self._info.bits_per_sample
        values = self._info.color_map
        if len(values) != 3 * entries or max(values) > 0xFFFF:
            raise ImageError(
                ErrorCode.CORRUPT,
                f"TIFF with a palette of {len(values)} values, the largest of which is "
                f"{max(values, default=0)}; {3 * entries} up to 65535 are needed",
            )
        unit = 1 if has_8_bit_color_map(self._info) else 256
        return (np.array(values, np.uint16) // unit).astype(np.uint8).reshape(3, entries).T


def _divided(color: Pixels, alpha: Pixels) -> Pixels:
    """Undoes the multiplication of color by alpha, row by row to save memory."""
    full = np.iinfo(color.dtype).max
    divided = np.empty_like(color)
    for row, color_row, alpha_row in zip(divided, color, alpha, strict=True):
        weight = np.maximum(alpha_row, 1).astype(np.uint32)
        shown = (color_row.astype(np.uint32) * full + weight // 2) // weight
        row[...] = np.where(alpha_row > 0, np.minimum(shown, full), 0)
    return divided


def open_view(
    view: tiff_views.TiffView, read: Callable[[int, int], bytes], access: str, fail_on: str
) -> Any:
    """Opens a view of a TIFF by libvips.

    Args:
        view: the view of the file.
        read: returns the file's bytes, given an offset and their number.
        access: libvips's parameter of this name.
        fail_on: libvips's parameter of this name.
    """
    forget_errors()
    source = pyvips.SourceCustom()
    file = _ViewFile(view, read)
    source.on_read(file.read)
    source.on_seek(file.seek)
    return pyvips.Image.new_from_source(source, "", access=access, fail_on=fail_on)


def open_strictly(plain: Callable[[str], Any] | None, bare: Callable[[str], Any]) -> Any:
    """Opens an image of libvips so that damage is an error when the image is read.

    libvips can make errors of libtiff's warnings. libtiff warns of damage, and of fields that it
    does not know; of these it warns at once.

    Args:
        plain: opens the file with a value of `fail_on`; None if its first page is not the picture.
        bare: opens `tiff_views.tiff_plain_view` of the file with a value of `fail_on`.
    """
    for open_ in (plain, bare):
        if open_ is not None:
            with contextlib.suppress(pyvips.Error):
                return open_("warning")
    return bare("error")


class _ViewFile:
    """The bytes of a view, as a file for libvips."""

    def __init__(self, view: tiff_views.TiffView, read: Callable[[int, int], bytes]) -> None:
        self._view = view
        self._read_file = read
        self._position = 0

    def seek(self, offset: int, whence: int) -> int:
        try:
            return self._sought(offset, whence)
        except Exception as error:
            keep(error)
            return -1

    def _sought(self, offset: int, whence: int) -> int:
        end = self._view.tail_start + len(self._view.tail)
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: end}[whence]
        self._position = start + offset
        return self._position

    def read(self, size: int) -> bytes:
        try:
            data = self._part(size)
        except Exception as error:
            keep(error)
            return b""
        self._position += len(data)
        return data

    def _part(self, size: int) -> bytes:
        view, position = self._view, self._position
        if position < len(view.head):
            return view.head[position : position + size]
        if position < view.tail_start:
            data = self._read_file(position, min(size, view.tail_start - position))
            # A padding byte, between an odd end of the file and the tail.
            return data or bytes(1)
        return view.tail[position - view.tail_start :][:size]
