"""Options of the encoding of results: quality, lossless WebP, PNG's compression, metadata."""

import click

from beam_upscale.cli.options.fields import field_option
from beam_upscale.images.writing.encode_options import (
    DEFAULT_JPEG_QUALITY,
    DEFAULT_WEBP_QUALITY,
    EncodeOptions,
)

ENCODE_OPTIONS = (
    field_option(
        EncodeOptions,
        "quality",
        "Write JPEG and lossy WebP in this quality, 1 to 100; a higher one takes more "
        f"bytes. [default: {DEFAULT_JPEG_QUALITY} for JPEG, {DEFAULT_WEBP_QUALITY} for "
        "WebP]",
        kind=click.IntRange(1, 100),
    ),
    field_option(
        EncodeOptions, "lossless", "Write WebP without loss; --quality then has no effect."
    ),
    field_option(
        EncodeOptions,
        "png_compression",
        "Compress PNGs at this level: 0 not at all, 1 in the least time, 9 to the fewest bytes. "
        "The pixels are the same.",
        kind=click.IntRange(0, 9),
    ),
    field_option(
        EncodeOptions,
        "metadata",
        "Choose what to do with the EXIF (GPS included), XMP and resolution of an "
        "input: keep them in its result, or strip them. Color profiles always stay.",
    ),
)
