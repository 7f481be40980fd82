"""Verifies that a dataset matches its manifest, byte for byte."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any

from beam_upscale.dataset.book_sums import read_sums
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout, shard_name
from beam_upscale.dataset.layouts.shard_files import read_images
from beam_upscale.dataset.manifest.row import Row
from beam_upscale.dataset.manifest.totals import Totals, totals
from beam_upscale.dataset.paths.output_files import (
    BOOKS,
    CARD,
    DATA,
    IMAGES,
    MANIFEST,
    RUN_JSON,
    STAGING,
    TELEMETRY,
)
from beam_upscale.dataset.run_json import CommittedShard
from beam_upscale.errors import BeamUpscaleError, ImageError, reason
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

# Files and folders that a dataset may hold besides its images, shards and manifests.
_OTHER_FILES = frozenset({CARD, RUN_JSON})
_OTHER_FOLDERS = frozenset({STAGING, BOOKS, TELEMETRY})


class ProblemKind(StrEnum):
    """The kinds of problems of a dataset."""

    INCOMPLETE = "incomplete"
    MISSING_FILE = "missing_file"
    MISSING_ROW = "missing_row"
    REPEATED_ROW = "repeated_row"
    CHANGED = "changed"
    STRAY_FILE = "stray_file"


@dataclasses.dataclass(frozen=True)
class Problem:
    """One problem of a dataset.

    Attributes:
        kind: the kind of problem.
        path: the path of the file, relative to the dataset's root.
        message: the value that was found and the expected one.
    """

    kind: ProblemKind
    path: str
    message: str


def verify(output: str) -> Iterator[Problem]:
    """Reads every byte of a dataset and recomputes every SHA-256.

    Args:
        output: the dataset's root.

    Yields:
        Every problem; none for a dataset that is unchanged since its run. Telemetry and work in
        progress are not checked.

    Raises:
        SettingsError: SETTINGS_CHANGED, a later version of this package wrote the dataset.
    """
    dataset = DatasetFolder(files.absolute(output))
    run = dataset.read_run()
    if run is None or not run.complete:
        found = "there is no run.json" if run is None else "the run has not ended"
        yield Problem(ProblemKind.INCOMPLETE, RUN_JSON, f"{found}; run the same command again")
        return
    assert run.layout is not None and run.totals is not None
    layout = Layout(run.layout)
    yield from _verify_file(CARD, run.card_sha256, dataset)
    expected = _OTHER_FILES
    rows: list[Row] = []
    for shard in run.shards:
        number = int(shard.name)
        yield from _verify_shard(shard, dataset, layout)
        found_rows = _readable_rows(number, dataset)
        yield from _verify_images(found_rows, number, dataset, layout)
        rows += found_rows
        expected = expected | _paths(number, found_rows, layout)
    yield from _verify_rows(rows, run.totals)
    # Earlier versions kept no books.
    if run.books is not None:
        yield from _verify_books(run.totals, dataset)
    yield from _stray_files(expected, dataset)


def _readable_rows(shard: int, dataset: DatasetFolder) -> list[Row]:
    """Reads a manifest's rows; empty if it is missing or damaged, which is reported before."""
    try:
        return dataset.read_manifest(shard)
    except (ImageError, OSError, ValueError, KeyError, TypeError):
        return []


def _paths(shard: int, rows: list[Row], layout: Layout) -> frozenset[str]:
    images = {row.output_uri for row in rows if row.output_uri is not None}
    images |= {stage["output_uri"] for stage in _intermediates(rows)}
    data = {layout.data_path(shard)} if layout.is_packed else set()
    return frozenset(images | data | {f"manifest/{shard_name(shard)}.parquet"})


def _intermediates(rows: Iterable[Row]) -> Iterator[Mapping[str, Any]]:
    """Yields the stages of chains whose results were kept as files."""
    for row in rows:
        yield from (stage for stage in row.stages if stage.get("output_uri") is not None)


def _verify_shard(
    shard: CommittedShard, dataset: DatasetFolder, layout: Layout
) -> Iterator[Problem]:
    number = int(shard.name)
    yield from _verify_file(
        f"manifest/{shard_name(number)}.parquet", shard.manifest_sha256, dataset
    )
    if layout.is_packed:
        yield from _verify_file(layout.data_path(number), shard.data_sha256, dataset)


def _verify_file(path: str, expected: str | None, dataset: DatasetFolder) -> Iterator[Problem]:
    uri = dataset.resolve(path)
    if not files.exists(uri):
        yield Problem(ProblemKind.MISSING_FILE, path, "the file is not there")
        return
    try:
        found = files.sha256(uri)
    except ImageError as error:
        yield Problem(ProblemKind.CHANGED, path, f"cannot be read: {reason(error)}")
        return
    if found != expected:
        yield Problem(ProblemKind.CHANGED, path, f"SHA-256 is {found}, was {expected}")


def _verify_images(
    rows: list[Row], shard: int, dataset: DatasetFolder, layout: Layout
) -> Iterator[Problem]:
    for stage in _intermediates(rows):
        yield from _verify_file(stage["output_uri"], stage["output_sha256"], dataset)
    upscaled = [row for row in rows if row.output_uri is not None]
    if layout.is_packed:
        yield from _verify_data_shard(upscaled, shard, dataset, layout)
        return
    for row in upscaled:
        assert row.output_uri is not None
        yield from _verify_file(row.output_uri, row.output_sha256 or "", dataset)


def _verify_data_shard(
    rows: list[Row], shard: int, dataset: DatasetFolder, layout: Layout
) -> Iterator[Problem]:
    path, uri = layout.data_path(shard), dataset.data_uri(shard, layout)
    if not files.exists(uri):
        return
    expected = {row.input_id: row.output_sha256 for row in rows}
    try:
        found = {
            input_id: hashlib.sha256(data).hexdigest()
            for input_id, data in read_images(uri, layout)
        }
    except (ImageError, OSError, ValueError) as error:
        yield Problem(ProblemKind.CHANGED, path, f"cannot be read: {reason(error)}")
        return
    for input_id in expected.keys() - found.keys():
        yield Problem(ProblemKind.MISSING_ROW, path, f"there is no image of {input_id}")
    for input_id, digest in found.items():
        if expected.get(input_id) != digest:
            message = f"SHA-256 of {input_id} is {digest}, was {expected.get(input_id)}"
            yield Problem(ProblemKind.CHANGED, path, message)


def _verify_rows(rows: list[Row], expected: Totals) -> Iterator[Problem]:
    for input_id, count in Counter(row.input_id for row in rows).items():
        if count > 1:
            message = f"{input_id} has {count} rows"
            yield Problem(ProblemKind.REPEATED_ROW, MANIFEST, message)
    found = totals(rows)
    if found.rows < expected.rows:
        message = f"there are {found.rows} rows, there were {expected.rows}"
        yield Problem(ProblemKind.MISSING_ROW, MANIFEST, message)
    for name in ("credits", "billed_credits", "usd"):
        yield from _verify_sum(name, getattr(found, name), getattr(expected, name), MANIFEST)


def _verify_books(expected: Totals, dataset: DatasetFolder) -> Iterator[Problem]:
    """Compares the books with the totals."""
    try:
        books = read_sums(dataset)
    except (BeamUpscaleError, OSError, ValueError, KeyError, TypeError) as error:
        yield Problem(ProblemKind.CHANGED, BOOKS, f"cannot be read: {reason(error)}")
        return
    yield from _verify_sum("charged_credits", books.charged, expected.charged_credits, BOOKS)
    yield from _verify_sum(
        "unresolved_credits", books.unresolved, expected.unresolved_credits, BOOKS
    )


def _verify_sum(name: str, found: Decimal, expected: Decimal, path: str) -> Iterator[Problem]:
    if found != expected:
        message = f"{name} sums to {found}, was {expected}"
        yield Problem(ProblemKind.CHANGED, path, message)


def _stray_files(expected: frozenset[str], dataset: DatasetFolder) -> Iterator[Problem]:
    for entry in files.list_below(dataset.root):
        if entry.name in expected or entry.name.partition("/")[0] in _OTHER_FOLDERS:
            continue
        message = f"no row accounts for this file below {IMAGES}, {DATA} or {MANIFEST}"
        yield Problem(ProblemKind.STRAY_FILE, uris.printable(entry.name), message)
