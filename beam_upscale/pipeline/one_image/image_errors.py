"""Tells errors of one image from errors for which the whole run must stop."""

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError, SettingsError, internal_error


def as_image_error(error: Exception) -> ImageError:
    """Converts an exception to the error of one image, so that the others of its bundle go on.

    Raises:
        SettingsError: the exception concerns all images.
        OSError: a disk is full, which is no image's fault: the run stops, and a later one goes on.
    """
    if isinstance(error, ImageError):
        return error
    if isinstance(error, SettingsError):
        raise error
    if isinstance(error, OSError) and error.errno in FULL_DISK:
        raise error
    if isinstance(error, MemoryError):
        return ImageError(ErrorCode.OUT_OF_MEMORY, "the image does not fit in memory")
    return internal_error(error)
