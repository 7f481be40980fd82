"""Rows of turned pictures wait in a temporary file; what it refuses is no fault of a picture."""

import errno
import io
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from read_in_parts import all_rows, by_pillow, turned

from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError
from beam_upscale.images.reading import row_readers


class Refusing(io.BytesIO):
    """A file in which nothing can be written, nor what it holds back when it is closed."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def write(self, data: Any) -> int:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("number", sorted(FULL_DISK))
def test_temporary_folder_that_is_full_is_no_fault_of_the_file(
    number: int, stored: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_readers.tempfile, "TemporaryFile", lambda **_: Refusing(number))

    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        all_rows(stored(by_pillow("RGB", "JPEG", exif=turned(6))))

    assert (caught.value.errno, caught.value.filename) == (number, tempfile.gettempdir())


def test_disk_so_full_that_no_folder_is_a_temporary_one_is_no_fault_of_the_file(
    stored: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']")

    path = stored(by_pillow("RGB", "JPEG", exif=turned(3)))
    monkeypatch.setattr(row_readers.tempfile, "gettempdir", none)

    with pytest.raises(OSError, match="No usable temporary directory") as caught:
        all_rows(path)

    assert caught.value.errno == errno.ENOSPC


def test_temporary_folder_that_cannot_be_written_is_no_damage(
    stored: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_readers.tempfile, "TemporaryFile", lambda **_: Refusing(errno.EIO))

    with pytest.raises(ImageError) as caught:
        all_rows(stored(by_pillow("RGB", "JPEG", exif=turned(6))))

    assert caught.value.code is ErrorCode.INTERNAL_ERROR
    assert f"the temporary folder {tempfile.gettempdir()} cannot hold" in caught.value.message
    assert os.strerror(errno.EIO) in caught.value.message
