import errno
import os
import urllib.error

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beam_upscale.errors import ErrorCode, ImageError, literal, reason, shortened


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
        (b"caf\xe9", "it is not UTF-8: byte 0xe9 at 3"),
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


@pytest.mark.parametrize(
    "text",
    [
        "",
        "shoot [raw] [/b] :smile: [link=x] {name} %s",
        "two  blanks, and one at the end ",
        "日本語 café עברית عربي हिन्दी 🏳️‍🌈",
        # Blanks of other widths are in the names of macOS' screenshots and of Japanese files.
        "9.41.00\u202fPM\u00a0x\u3000y",
        "back\\slash",
    ],
)
def test_what_can_be_shown_is_shown_as_it_is(text: str) -> None:
    assert literal(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x1b[31mred\x07\x7f\x00", r"\x1b[31mred\x07\x7f\x00"),
        ("\x9b2J\x85", r"\x9b2J\x85"),
        ("gpj\u202egnp.\u2066x\u200f", r"gpj\u202egnp.\u2066x\u200f"),
        ("line\u2028paragraph\u2029", r"line\u2028paragraph\u2029"),
        ("zero\u200bwidth\ufeff\U000e0041", r"zero\u200bwidth\ufeff\U000e0041"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_a_terminal_would_obey_is_an_escape(text: str, shown: str) -> None:
    assert literal(text) == shown


@given(st.text(st.characters(exclude_categories=()), max_size=50))
def test_every_text_is_one_line_that_can_be_encoded(text: str) -> None:
    shown = literal(text)

    assert shown.encode().decode() == shown
    assert len(shown.splitlines()) <= 1
    assert "\x1b" not in shown


def test_long_texts_lose_their_middle() -> None:
    assert shortened("a" * 30, 30) == "a" * 30
    assert shortened(f"{'a' * 3000}{'z' * 2000}", 30) == f"{'a' * 20}[... 4,970 characters ...]" + (
        "z" * 10
    )
