"""Lines of JSON that are no rows, or hold odd values."""

import json
from pathlib import Path

import pytest
from written_tables import problems, write

from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.parsing import table_rows


def test_lines_that_are_no_rows_cost_no_others(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines = [
        b'\xef\xbb\xbf{"url": "a.png"}',
        b"",
        b"{",
        b'["a.png"]',
        b'{"url": 7, "n": 1}',
        b'{"url": ["a.png"]}',
        b'{"url": "\\ud800"}',
        b'{"url": "a\\u0000b"}',
        b'{"url": "\xff"}',
        b'{"URL": "a.png"}',
        b"[" * 100_000,
        b'{"url": "%s"}' % (b"x" * 9000),
        b'{"url": "b.png"}',
    ]
    path.write_bytes(b"\n".join(lines))

    found = problems(list_images(str(path)))

    words = [
        *(
            "",
            "line 3: it is not JSON from column",
            'line 4: ["a.png"] is not a JSON object',
            "line 5: url is 7",
        ),
        *("line 6: url is ['a.png']", "line 7: it is not valid Unicode", "line 8: url has a NUL"),
        *("line 9: byte 0xff at 9 is not UTF-8", "line 10: url has no value", "line 11: "),
        *("line 12: url has 9,000 characters", ""),
    ]
    assert len(found) == len(words)
    for problem, word in zip(found, words, strict=True):
        assert word in problem
        assert bool(word) == bool(problem)


def test_a_line_that_is_too_long_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table_rows, "LONGEST_LINE_BYTES", 100)
    path = tmp_path / "rows.jsonl"
    long = json.dumps({"url": "x" * 500})
    path.write_text(f'{{"url": "a.png"}}\n{long}\n{{"url": "b.png"}}\n{long}')

    found = problems(list_images(str(path)))

    assert [bool(problem) for problem in found] == [False, True, False, True]
    assert "line 2: it has more bytes" in found[1]


def test_what_json_holds_and_python_does_not_is_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    digits, deep = "1" * 10_000, "[" * 400 + "]" * 400
    path.write_text(f'{{"url": "a.png", "n": {digits}, "x": {deep}, "y": [[1]], "z": 1e999}}\n')

    (image,) = list_images(str(path)).images

    assert dict(image.columns) == {
        "url": "a.png",
        "n": digits,
        "x": deep,
        "y": [[1]],
        "z": float("inf"),
    }


def test_no_sound_line_is_no_missing_column(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("{}\n{\n")

    found = problems(list_images(str(path)))

    assert ["line 1: it has no columns" in found[0], "line 2: " in found[1]] == [True, True]


def test_bytes_in_a_text_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"image": {"path": "a.png", "bytes": "iVBORw0KGgo="}}])

    (problem,) = problems(list_images(str(path)))

    assert "image has bytes as text, which are not read" in problem
    assert "iVBOR" not in problem
