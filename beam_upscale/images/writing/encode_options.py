"""The options for encoding results: quality, lossless WebP, PNG's compression level, metadata."""

from dataclasses import dataclass

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.planning.plan_options import MetadataRule, OutputFormat
from beam_upscale.planning.ranges import take_choices

DEFAULT_JPEG_QUALITY = 95
"""The quality of a JPEG, which is then written without chroma subsampling."""

DEFAULT_WEBP_QUALITY = 90
"""The quality of a lossy WebP."""


@dataclass(frozen=True)
class EncodeOptions:
    """The options for writing an image.

    Attributes:
        format: the container.
        quality: the quality of JPEG and lossy WebP, 1 to 100; None takes the format's default.
        lossless: WebP without loss; `quality` is then ignored.
        png_compression: how small a PNG is made, from 0 (not compressed) over 1 (fastest) to 9
            (smallest, and many times slower than 3). Its pixels are the same. At 3, photographs
            are 4 to 9 % larger than Pillow's default makes them, in a tenth of the time, and of
            the pictures measured none is more than 15 % larger (`benchmarks/encoders.py`). Above
            32 MiB of pixels, text is up to twice as large below 6.
        metadata: whether a result keeps the EXIF block, GPS included, the XMP packet and the
            resolution of its input, or is stripped of them. Color profiles stay.

    Raises:
        SettingsError: INVALID_OPTION, a number is out of range.
    """

    format: OutputFormat = OutputFormat.PNG
    quality: int | None = None
    lossless: bool = False
    png_compression: int = 3
    metadata: MetadataRule = MetadataRule.KEEP

    def __post_init__(self) -> None:
        take_choices(self, format=OutputFormat, metadata=MetadataRule)
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise SettingsError(
                ErrorCode.INVALID_OPTION, f"quality is {self.quality}; allowed are 1 to 100"
            )
        if not 0 <= self.png_compression <= 9:
            raise SettingsError(
                ErrorCode.INVALID_OPTION,
                f"PNG compression is {self.png_compression}; allowed are 0 to 9",
            )
