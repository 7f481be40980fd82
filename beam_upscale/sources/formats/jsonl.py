"""The format jsonl: a JSON object on each line."""

from collections.abc import Iterator
from typing import BinaryIO

from beam_upscale.dataset.manifest.json_values import (
    is_unicode,
    json_problem,
    parsed,
    shown_json,
    without_deep,
)
from beam_upscale.sources.formats.tables import text_table_format
from beam_upscale.sources.parsing import table_rows
from beam_upscale.sources.parsing.table_rows import Line


def _lines(_: str, file: BinaryIO) -> Iterator[Line]:
    number = 0
    while data := file.readline(table_rows.LONGEST_LINE_BYTES):
        number += 1
        place = f"line {number}"
        is_whole = len(data) < table_rows.LONGEST_LINE_BYTES or data.endswith(b"\n")
        if not is_whole:
            _pass_over_line(file)
            limit = (
                f"at most {table_rows.LONGEST_LINE_BYTES:,} are read; put images into files of "
                "their own"
            )
            yield Line(place, {}, f"it has more bytes than a row may have; {limit}")
            continue
        text = data.removeprefix(b"\xef\xbb\xbf") if number == 1 else data
        if text.strip():
            yield _json_line(place, text)


def _pass_over_line(file: BinaryIO) -> None:
    while (data := file.readline(table_rows.LONGEST_LINE_BYTES)) and not data.endswith(b"\n"):
        pass


def _json_line(place: str, data: bytes) -> Line:
    must = "each line must be one JSON object"
    try:
        value = parsed(data.decode())
    except UnicodeDecodeError as error:
        found = f"byte {data[error.start]:#04x} at {error.start:,}"
        return Line(place, {}, f"{found} is not UTF-8; save it as UTF-8")
    except (ValueError, RecursionError) as error:
        return Line(place, {}, f"{json_problem(error)}; {must}")
    if not isinstance(value, dict):
        return Line(place, {}, f"{shown_json(value)} is not a JSON object; {must}")
    if not is_unicode(value):
        return Line(place, {}, "it is not valid Unicode: half of a surrogate pair is escaped in it")
    return Line(place, without_deep(value))


DEFINITION = text_table_format(_lines, ".jsonl", ".ndjson")
