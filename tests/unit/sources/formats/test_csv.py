"""Records of CSV that are long, wide, or end in the middle."""

from pathlib import Path

import pytest
from written_tables import problems, refused

from beam_upscale.errors import ErrorCode
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.parsing import separated_values


def test_a_csv_row_that_is_too_long_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(separated_values, "LONGEST_LINE_CHARACTERS", 100)
    path = tmp_path / "rows.csv"
    long = "a.png," + "x" * 500
    path.write_text(f'url,text\r\na.png,"1\n2"\r\n{long}\r\nb.png,3\r\n{long}')

    listing = list_images(str(path))

    assert [bool(problem) for problem in problems(listing)] == [False, True, False, True]
    assert (
        "line 4: it has more characters than a row may have; at most 100" in (problems(listing)[1])
    )
    assert [image.columns["text"] for image in listing.images] == ["1\n2", None, "3", None]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('url\na.png\n"b.png\nc.png', "line 3: it ends within a quoted cell"),
        ('url\na.png\n"b.png\n' + "c.png\n" * 50, "line 3: a quoted cell does not end within 100"),
        ("u" * 200 + "\na.png\n", "line 1: it has more characters"),
    ],
)
def test_a_quote_that_is_never_closed_is_told_and_not_read_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, words: str
) -> None:
    monkeypatch.setattr(separated_values, "LONGEST_LINE_CHARACTERS", 100)
    (tmp_path / "rows.csv").write_text(text)

    error = refused(tmp_path / "rows.csv")

    assert error.code is ErrorCode.INVALID_TABLE
    assert words in error.message


def test_many_columns_take_no_time(tmp_path: Path) -> None:
    names = ["url", *(f"c{number}" for number in range(30_000))]
    path = tmp_path / "rows.csv"
    path.write_text(",".join(names) + "\na.png\n")

    (image,) = list_images(str(path)).images

    assert len(image.columns) == len(names)


def test_a_csv_row_with_too_many_cells_is_one_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('url,"a text"\n"a\nb.png",x\nc.png,y,z\nd.png\n')

    listing = list_images(str(path))

    assert ["line 4: 3 cells" in problem for problem in problems(listing)] == [False, True, False]
    first, _, third = listing.images
    assert first.columns == {"url": "a\nb.png", "a text": "x"}
    assert third.columns == {"url": "d.png", "a text": None}
