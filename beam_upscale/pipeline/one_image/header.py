"""Reads an input's header from the beginning of its file, and plans the input from it.

Most headers are within the first `HEADER_BYTES`. A plan must be that of a run, so `read_header`
reads the whole file wherever the beginning may mislead. `read_large_header` must not hold a large
file in memory, so it reads such a file on the disk.
"""

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.images.decoding.pool import DecoderPool
from beam_upscale.images.values import ImageHeader
from beam_upscale.pipeline.one_image.image_errors import as_image_error
from beam_upscale.planning.chain import ChainPlan, Rules
from beam_upscale.sources.inputs.source_image import HEADER_BYTES, SourceImage
from beam_upscale.storage.protocol.store import check_size

# Formats whose plan needs the end of the file too: frame count and orientation may be there.
_LATE_FORMATS = frozenset({"gif", "webp"})


def plan_of(source: SourceImage, rules: Rules, decoders: DecoderPool) -> ChainPlan:
    """Plans an input from its header and its parameters alone.

    Raises:
        ImageError: the file, its header or its caption cannot be read, or a column is no parameter;
            any other exception becomes the error of this image, as in a run (`as_image_error`).
    """
    try:
        if rules.is_guided:
            rules.check(source.parameters(rules.parameters, rules.prompt_column))
        header = read_header(source, decoders, rules.options.max_input_bytes)
        return rules.plan(header.width, header.height, frames=header.frames)
    except ImageError:
        raise
    except Exception as error:
        raise as_image_error(error) from error


def read_header(source: SourceImage, decoders: DecoderPool, max_bytes: int) -> ImageHeader:
    """Reads an input's header, from the beginning of its file if that is enough.

    Args:
        source: the input.
        decoders: the processes that parse headers.
        max_bytes: the largest file in bytes; a larger one is rejected, as in a run.

    Raises:
        ImageError: the file or its header cannot be read.
    """
    if source.data is not None or source.uri is None:
        return decoders.read_header(source.read(max_bytes))
    start = source.read_start()
    if len(start) != HEADER_BYTES:
        # This is the whole file; it may be longer than requested if the store cannot read a range.
        check_size(len(start), max_bytes)
        return decoders.read_header(start)
    try:
        header = decoders.read_header(start)
    except ImageError:
        # Read the whole file, so that the error is that of a run.
        return decoders.read_header(source.read(max_bytes))
    if header.format in _LATE_FORMATS:
        return decoders.read_header(source.read(max_bytes))
    source.check_size(max_bytes)
    return header


def read_large_header(
    source: SourceImage, decoders: DecoderPool, max_bytes: int, least_pixels: float
) -> tuple[ImageHeader, str | None] | None:
    """Reads the header of a large image and the SHA-256 of its bytes; None for any other image.

    The hash is None if the bytes were not read as a whole. The result is also None for an image
    that is already in memory, and after an error, which will occur again when the image is read.

    Args:
        source: the input.
        decoders: the processes that parse headers.
        max_bytes: the largest file in bytes.
        least_pixels: a large image has more pixels than this.
    """
    if source.data is not None or source.uri is None:
        return None
    try:
        source.check_size(max_bytes)
        header = _early_header(source, decoders)
        if header is not None and header.width * header.height <= least_pixels:
            return None
        with source.on_disk() as held:
            header = decoders.read_file_header(held.path)
    except ImageError:
        return None
    return (header, held.sha256) if header.width * header.height > least_pixels else None


def _early_header(source: SourceImage, decoders: DecoderPool) -> ImageHeader | None:
    """Reads the header from a file's beginning; None if that is not enough.

    Raises:
        ImageError: the header cannot be read, whatever follows.
    """
    try:
        return decoders.read_header(source.read_start())
    except ImageError as error:
        if error.code is not ErrorCode.TRUNCATED:
            raise
        return None
