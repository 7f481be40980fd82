import errno
import os
import urllib.error

import pytest

from beam_upscale.errors import ErrorCode, ImageError, reason


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(errno.EACCES, "x"), "this user has no permission"),
        (OSError(errno.EROFS, "x", "/a"), "the disk is read-only: /a"),
        (OSError(errno.ENAMETOOLONG, "x", "/b"), "the name is too long"),
        (FileNotFoundError(errno.ENOENT, "x"), "there is no such file or folder"),
        (ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(111)), "connection refused"),
        (urllib.error.URLError(OSError(errno.EIO, "x")), "the disk or the connection to it has"),
        (ImageError(ErrorCode.NOT_FOUND, "a does not exist"), "a does not exist"),
        (b"caf\xe9", "it is no UTF-8: byte 0xe9 at 3"),
        (RuntimeError("\n first line \nsecond"), "first line"),
        (RuntimeError(), "RuntimeError"),
        (KeyError("name"), "KeyError: 'name'"),
    ],
)
def test_reasons_are_plain_words_on_one_line(error: Exception | bytes, words: str) -> None:
    if isinstance(error, bytes):
        with pytest.raises(UnicodeDecodeError) as caught:
            error.decode()
        error = caught.value

    assert reason(error, of="/b").startswith(words)
    assert "\n" not in reason(error)


def test_the_words_of_a_store_are_told_without_the_request() -> None:
    error = RuntimeError("An error occurred (NoSuchBucket) when calling PutObject: …")
    error.response = {"Error": {"Message": "The bucket does not exist"}}  # type: ignore[attr-defined]

    assert reason(error) == "The bucket does not exist"
