"""Compares what two runs left, file by file.

Images, data, cards and everything else must have the same bytes. Of manifests the texts of
`error_message` and `notes` may differ, of `run.json` its version. Measurements and the books vary
from run to run: of them only what does not vary is compared (`_MEASURED`, `_ENTERED`). Which of
several files has a row of a preview is chance, so they count as one.
"""

import dataclasses
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

TEXTS = frozenset({"error_message", "notes", "message", "note"})
"""Columns and keys that hold texts for people."""

# The key of `run.json` that holds its version, and those of hashes of files with texts.
_VERSION = frozenset({"version"})
_DIGESTS = frozenset({"manifest_sha256"})

# The columns of telemetry that do not measure.
_MEASURED = ("input_id", "attempts", "batch_size")

# What the books hold, without the ids and times that are made anew for each call.
_ENTERED = (
    *("input_id", "stage", "tile", "n", "request_id", "engine", "work", "credits", "endpoint"),
    "state",
)

# Files of which only the rows are compared, neither names nor order; and work in progress.
_BY_CONTENT = re.compile(r"(.*/)?(telemetry|books)/.*|(.*/)?images-\d+-of-\d+\.parquet")
_IN_PROGRESS = ".staging"


@dataclasses.dataclass(frozen=True)
class Difference:
    """One difference.

    Attributes:
        path: of the file, relative to the folders.
        found: what differs.
        is_text: True if it is but the wording of a text, which may differ.
    """

    path: str
    found: str
    is_text: bool = False

    def __str__(self) -> str:
        return f"{self.path}: {self.found}"


def differences(before: Path, after: Path) -> list[Difference]:
    """Compares two folders, which may hold several outputs at any depth."""
    names, others = _files(before), _files(after)
    found = [Difference(name, "is missing after") for name in sorted(names - others)]
    found += [Difference(name, "is new after") for name in sorted(others - names)]
    run_jsons = {name for name in names & others if Path(name).name == "run.json"}
    for name in sorted(names & others - run_jsons):
        found += _of_file(name, before, after)
    for name in sorted(run_jsons):
        output = Path(name).parent
        has_other_texts = any(each.is_text and output in Path(each.path).parents for each in found)
        left_out = _VERSION | (_DIGESTS if has_other_texts else frozenset())
        values, other_values = (json.loads((root / name).read_text()) for root in (before, after))
        found += in_json(name, values, other_values, left_out)
    for read in (_telemetry, _books, _previews):
        found += _in_rows(read(before), read(after))
    return found


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file()
        and _IN_PROGRESS not in path.relative_to(folder).parts
        and not _BY_CONTENT.fullmatch(path.relative_to(folder).as_posix())
    }


def _of_file(name: str, before: Path, after: Path) -> Iterator[Difference]:
    ours, theirs = (before / name).read_bytes(), (after / name).read_bytes()
    if ours == theirs:
        return
    found = []
    if name.endswith(".parquet"):
        found = list(_in_tables(name, ours, theirs))
    yield from found or [
        Difference(name, f"has other bytes: {len(ours):,} before, {len(theirs):,} after")
    ]


def _in_tables(name: str, before: bytes, after: bytes) -> Iterator[Difference]:
    """Compares two tables of Parquet, column by column and row by row."""
    ours, theirs = (pq.read_table(pa.BufferReader(each)) for each in (before, after))
    if not ours.schema.equals(theirs.schema, check_metadata=True):
        yield Difference(name, f"has other columns: {_lines_of(ours.schema, theirs.schema)}")
    if len(ours) != len(theirs):
        yield Difference(name, f"has {len(ours)} rows before, {len(theirs)} after")
        return
    for column in ours.column_names:
        if column not in theirs.column_names:
            continue
        pairs = zip(ours[column].to_pylist(), theirs[column].to_pylist(), strict=True)
        for row, (one, other) in enumerate(pairs):
            if repr(one) != repr(other):
                yield Difference(
                    name, f"row {row}, {column}: {one!r} -> {other!r}", is_text=column in TEXTS
                )


def _lines_of(before: pa.Schema, after: pa.Schema) -> str:
    ours, theirs = (set(each.to_string().splitlines()) for each in (before, after))
    return f"{sorted(ours - theirs)} -> {sorted(theirs - ours)}"


def in_json(
    path: str, before: Any, after: Any, left_out: frozenset[str] = frozenset()
) -> Iterator[Difference]:
    """Compares two values of JSON; `left_out` are keys that are not looked at."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in sorted((before.keys() | after.keys()) - left_out):
            place = f"{path}: {key}"
            if key not in after:
                yield Difference(place, "is missing after")
            elif key not in before:
                yield Difference(place, "is new after")
            elif key in TEXTS:
                if before[key] != after[key]:
                    yield Difference(place, f"{before[key]!r} -> {after[key]!r}", is_text=True)
            else:
                yield from in_json(place, before[key], after[key], left_out)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from in_json(f"{path}[{number}]", one, other, left_out)
    elif repr(before) != repr(after):
        yield Difference(path, f"{before!r} -> {after!r}")


def _in_rows(before: list[str], after: list[str]) -> Iterator[Difference]:
    for word, more in (("missing", Counter(before)), ("new", Counter(after))):
        less = Counter(after if word == "missing" else before)
        for row in sorted((more - less).elements()):
            yield Difference(row, f"is {word} after")


def telemetry(folder: Path) -> list[dict[str, Any]]:
    """Returns all rows of the telemetry below a folder."""
    return _rows(folder.rglob("telemetry/*.parquet"))


def _rows(files: Iterable[Path]) -> list[dict[str, Any]]:
    return [row for path in files for row in pq.read_table(path).to_pylist()]


def _telemetry(folder: Path) -> list[str]:
    return [f"telemetry {_of(row, _MEASURED)}" for row in telemetry(folder)]


def _books(folder: Path) -> list[str]:
    """Returns the entries of the books, without what is made anew for each call."""
    entries = [json.loads(path.read_text()) for path in folder.rglob("books/open/*/*.json")]
    entries += _rows(folder.rglob("books/closed/*.parquet"))
    return [
        f"entry of the books {_of(entry, _ENTERED)}, repeats another: {bool(entry['repeats'])}"
        for entry in entries
    ]


def _previews(folder: Path) -> list[str]:
    rows = _rows(folder.rglob("images-*-of-*.parquet"))
    return [f"row of a preview {_of(row, sorted(row.keys() - TEXTS))}" for row in rows]


def _of(values: Mapping[str, Any], names: Iterable[str]) -> str:
    return ", ".join(f"{name}={values[name]}" for name in names)
