"""What is no file on a local disk, and what may not be read."""

import os
from pathlib import Path

import pytest
from local_files import as_ordinary_user, make_files

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")

    with pytest.raises(ImageError, match="not a regular file") as caught:
        files.read(str(tmp_path / "pipe.png"))

    assert caught.value.code is ErrorCode.READ_ERROR


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ImageError) as caught:
        files.read(str(tmp_path))

    assert caught.value.code is ErrorCode.READ_ERROR


def test_an_ordinary_user_may_not_read_everything(open_folder: Path) -> None:
    make_files(open_folder, "secret.png")
    (open_folder / "secret.png").chmod(0o000)

    with as_ordinary_user(), pytest.raises(ImageError) as caught:
        files.read(str(open_folder / "secret.png"))

    assert caught.value.code is ErrorCode.PERMISSION_DENIED


@pytest.mark.parametrize("start", ["file:", "FILE://", "file://localhost", "file://LocalHost"])
def test_a_file_uri_of_this_machine_is_read(tmp_path: Path, start: str) -> None:
    (tmp_path / "a.png").write_bytes(b"here")
    uri = f"{start}{tmp_path}/a.png"

    assert store_of(uri).is_local
    assert store_of(uri).unread_scheme(uri) is None
    assert files.absolute(uri) == f"{tmp_path}/a.png"
    assert files.read(uri) == b"here"
