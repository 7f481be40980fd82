"""The format csv: comma- or tab-separated values with a header."""

import io
from collections.abc import Iterator
from typing import BinaryIO

from beam_upscale.sources.formats.definition import ending
from beam_upscale.sources.formats.tables import text_table_format
from beam_upscale.sources.parsing.metadata_files import named_columns
from beam_upscale.sources.parsing.separated_values import LogicalLine, MalformedError, logical_lines
from beam_upscale.sources.parsing.table_rows import Line, invalid, require_unique


def _lines(uri: str, file: BinaryIO) -> Iterator[Line]:
    header: list[str] | None = None
    for line in _csv_lines(uri, file):
        cells = line.cells
        if header is None:
            if line.problem:
                raise invalid(uri, f"{line.place}: {line.problem}")
            header = named_columns(cells)
            require_unique(uri, header)
            continue
        values = [cell or None for cell in cells] + [None] * (len(header) - len(cells))
        columns = dict(zip(header, values, strict=False))
        problem = line.problem
        if len(cells) > len(header):
            problem = (
                f"{len(cells)} cells where the first line has {len(header)}; quote those that "
                "have the separator in them"
            )
        yield Line(line.place, columns, problem)


def _csv_lines(uri: str, file: BinaryIO) -> Iterator[LogicalLine]:
    text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
    try:
        yield from _text_lines(uri, text)
    finally:
        # Otherwise it would close the file, which is read again.
        text.detach()


def _text_lines(uri: str, text: io.TextIOWrapper) -> Iterator[LogicalLine]:
    place = "line 1"
    try:
        for line in logical_lines(text, "\t" if ending(uri) == ".tsv" else ","):
            place = line.place
            yield line
    except UnicodeDecodeError as error:
        found = f"byte {error.object[error.start]:#04x} after {place} is not UTF-8"
        raise invalid(uri, f"{found}; save it as UTF-8") from None
    except MalformedError as error:
        found = f"{error.place}: {error.found}; it must be separated values"
        raise invalid(uri, found) from None


DEFINITION = text_table_format(_lines, ".csv", ".tsv")
