"""Files of books: others' among them, damaged ones, and one that is being written."""

from pathlib import Path

import pytest
from open_entries import PRICE, entry, keep, place

from beam_upscale.dataset import book_files
from beam_upscale.dataset.book_entries import State
from beam_upscale.dataset.book_files import check, read_entry
from beam_upscale.dataset.book_sums import BookSums, read_sums
from beam_upscale.dataset.books import close
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.errors import ErrorCode, SettingsError


@pytest.mark.parametrize(
    "name", ["closed/.DS_Store", "closed/._x.parquet", "open/._x.json", "open/ab/.x", "open/x.json"]
)
def test_files_of_others_are_passed_over(dataset: DatasetFolder, name: str) -> None:
    keep(dataset, entry("1", State.CHARGED), entry("2", tile=1))
    close(dataset)
    place(dataset, name, b"\0\0Bud1\xff")

    check(dataset)
    close(dataset)

    assert read_sums(dataset) == BookSums(PRICE, PRICE, 1)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (f"open/00/{'0' * 64}.1.json", b""),
        (f"open/00/{'0' * 64}.1.json", entry("1").to_json()[:-9]),
        (f"open/00/{'0' * 64}.1.json", b'{"id": "1"}'),
        (f"open/00/row-{'0' * 64}.json", b"\xff"),
        ("closed/x.parquet", b""),
        ("closed/x.parquet", b"PAR1 of something PAR1"),
    ],
    ids=["empty", "half", "without credits", "no text", "empty closed", "no table"],
)
def test_what_is_damaged_is_named(
    dataset: DatasetFolder, name: str, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(book_files, "_PAUSES", (0.0,))
    keep(dataset, entry("1", State.CHARGED))
    uri = place(dataset, name, data)

    for read in (check, read_sums):
        with pytest.raises(SettingsError) as raised:
            read(dataset)
        assert raised.value.code is ErrorCode.BOOKS_DAMAGED
        assert raised.value.message.startswith(f"{uri} is damaged")
        assert "\n" not in raised.value.message


def test_an_entry_that_is_being_written_is_awaited(
    dataset: DatasetFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = place(dataset, f"open/00/{'0' * 64}.1.json", b"")
    monkeypatch.setattr(
        "time.sleep", lambda _: Path(uri).write_bytes(entry("1").to_json()) and None
    )

    assert read_entry(uri) == entry("1")
