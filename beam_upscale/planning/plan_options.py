"""The options of a plan: sizes, skipping, oversize, input limits, frames, format."""

from dataclasses import dataclass
from enum import StrEnum

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.planning.ranges import check_at_least, take_choices

DEFAULT_MAX_INPUT_PIXELS = 250_000_000
"""An image that claims more pixels is refused before it is decoded (RGB: 750 MB of memory)."""

DEFAULT_MAX_INPUT_BYTES = 1 << 30
"""A larger file is refused before it is read; files are held in memory."""


class Oversize(StrEnum):
    """The treatment of an image above an engine's limit: reject, cut into tiles, or shrink it."""

    REJECT = "reject"
    TILE = "tile"
    SHRINK = "shrink"


class Animated(StrEnum):
    """The treatment of a file of several frames: take the first frame, or reject the file."""

    FIRST = "first"
    REJECT = "reject"


class MetadataRule(StrEnum):
    """The treatment of an input's metadata in its result; colors stay in any case."""

    KEEP = "keep"
    STRIP = "strip"


class OutputFormat(StrEnum):
    """File formats of results."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"
    TIFF = "tiff"

    @property
    def extension(self) -> str:
        """The file name's ending, with the dot."""
        return ".jpg" if self is OutputFormat.JPEG else f".{self.value}"

    @property
    def max_side(self) -> int | None:
        """The longest side in pixels that encoders write; None if no image comes near the limit.

        WebP's format ends at 2**14 - 1. JPEG's ends at 65,535, libjpeg's encoder
        (JPEG_MAX_DIMENSION) at 65,500.
        """
        return {OutputFormat.WEBP: 16_383, OutputFormat.JPEG: 65_500}.get(self)


@dataclass(frozen=True, slots=True)
class PlanOptions:
    """The options that apply to every image of a run; sizes in pixels, at least 1.

    Attributes:
        width: output width; at most one of width, height, short_side and long_side is set, and
            the others follow from the aspect ratio. None of them: the engine's scale.
        height: output height.
        short_side: length of the output's shorter side.
        long_side: length of the output's longer side.
        oversize: the treatment of an image beyond the engine's limit.
        min_side: images with both sides at least this long are skipped.
        skip_larger_than: (width, height); images that are wider or higher are skipped.
        max_input_pixels: images of more pixels are refused before they are decoded; None: no guard
            below `MOST_PIXELS`.
        max_input_bytes: larger files are refused before they are read; they are held in memory.
        animated: the treatment of a file of several frames.
        output_format: file format of the results.
        halo: halo of a tile in input pixels, at least 0; None: the engine's.

    Raises:
        SettingsError: INVALID_OPTION, a value is too small or none of an option's choices, or
            options exclude each other.
    """

    width: int | None = None
    height: int | None = None
    short_side: int | None = None
    long_side: int | None = None
    oversize: Oversize = Oversize.REJECT
    min_side: int | None = None
    skip_larger_than: tuple[int, int] | None = None
    max_input_pixels: int | None = DEFAULT_MAX_INPUT_PIXELS
    max_input_bytes: int = DEFAULT_MAX_INPUT_BYTES
    animated: Animated = Animated.FIRST
    output_format: OutputFormat = OutputFormat.PNG
    halo: int | None = None

    def __post_init__(self) -> None:
        take_choices(self, oversize=Oversize, animated=Animated, output_format=OutputFormat)
        requested = {
            "width": self.width,
            "height": self.height,
            "short_side": self.short_side,
            "long_side": self.long_side,
        }
        chosen = [name for name, value in requested.items() if value is not None]
        if len(chosen) > 1:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"{' and '.join(chosen)} are set; at most one of {', '.join(requested)} may be: "
                "the other side follows from the aspect ratio",
            )
        skip_width, skip_height = self.skip_larger_than or (None, None)
        check_at_least(
            1,
            **requested,
            min_side=self.min_side,
            skip_larger_than_width=skip_width,
            skip_larger_than_height=skip_height,
            max_input_pixels=self.max_input_pixels,
            max_input_bytes=self.max_input_bytes,
        )
        check_at_least(0, halo=self.halo)
