"""Names of files, as messages show them."""

import os

import pytest

from beam_upscale.storage.uris import uris


@pytest.mark.parametrize("name", ["a.png", "été 100%.png", "line\nbreak.png", "a%FF.png"])
def test_names_in_utf_8_are_printed_as_they_are(name: str) -> None:
    assert uris.printable(name) == name


def test_other_names_are_percent_encoded_whole() -> None:
    assert uris.printable(os.fsdecode(b"/in/100% \xff.png")) == "/in/100%25%20%FF.png"
