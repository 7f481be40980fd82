"""The listing of an output: its inputs, written shard by shard to `.staging/listing`.

Only positions in the listing cross a shuffle. Workers read the inputs there, and so does the commit
of a shard, which has to know all inputs of the shard.
"""

import dataclasses
import gzip
import hashlib
import itertools
import json
from collections.abc import Hashable, Iterable, Iterator

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import shard_name
from beam_upscale.dataset.manifest.json_values import json_text
from beam_upscale.sources.inputs.source_image import SourceImage, source_from_values
from beam_upscale.sources.locations.file_parts import Cell
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris

# The most inputs in a batch; fewer in a small dataset, so that every worker gets some.
_MOST_TOGETHER = 64
_BATCHES = 1024

# To read one row of a Parquet file, a worker reads its whole row group. So neighbors stay together
# in smaller datasets, too.
_BATCHES_OF_CELLS = 256
_FEWEST_CELLS_TOGETHER = 8

_INDEX = "index.jsonl.gz"


@dataclasses.dataclass(frozen=True)
class ListedInput:
    """An input in the listing of an output.

    Attributes:
        source: the input, with its shard and the name of its result.
        is_committed: True if that shard was committed with a row of the input.
    """

    source: SourceImage
    is_committed: bool = False

    def to_json(self) -> str:
        """Returns the input as one line of JSON."""
        values = {**self.source.to_values(), "committed": self.is_committed}
        if "web_access" in values:
            # It stays last: a part is named by the hash of its bytes.
            values["web_access"] = values.pop("web_access")
        return json_text(values)


def listed_from_json(text: str) -> ListedInput:
    """Makes an input from the JSON that `ListedInput.to_json` returned."""
    values = json.loads(text)
    is_committed = values.pop("committed")
    return ListedInput(source_from_values(values), is_committed)


@dataclasses.dataclass(frozen=True)
class Batch:
    """A range of inputs that a worker gets together.

    Attributes:
        shard: the shard that the inputs belong to.
        part: the part of the listing that holds the shard's inputs.
        first: index of the first of these inputs in the part, from 0.
        count: the number of inputs.
    """

    shard: int
    part: str
    first: int
    count: int


def together(sources: Iterable[SourceImage], total: int) -> Iterator[list[SourceImage]]:
    """Groups inputs into the lists that are spread over the workers.

    Args:
        sources: the inputs, in order; those of one row group of a Parquet file follow each other.
        total: the number of inputs in the whole dataset.
    """
    alone = min(_MOST_TOGETHER, max(1, total // _BATCHES))
    cells = min(_MOST_TOGETHER, max(_FEWEST_CELLS_TOGETHER, total // _BATCHES_OF_CELLS))
    for key, group in itertools.groupby(sources, key=_read_with):
        while batch := list(itertools.islice(group, alone if key is None else cells)):
            yield batch


def _read_with(source: SourceImage) -> Hashable:
    """Returns a key of the row group that is read with an input; None if it is read by itself."""
    return (source.uri, source.part.row_group) if isinstance(source.part, Cell) else None


def write_listing(
    listed: Iterable[ListedInput], total: int, dataset: DatasetFolder
) -> Iterator[Batch]:
    """Writes a listing and returns its batches.

    Parts are named by their content, so a second run over other inputs keeps those of the first.

    Args:
        listed: the inputs; those of one shard follow each other.
        total: the number of inputs.
        dataset: the output.
    """
    index: list[bytes] = []
    for shard, group in itertools.groupby(listed, key=lambda each: each.source.shard):
        assert shard is not None
        inputs = list(group)
        lines = "".join(f"{each.to_json()}\n" for each in inputs).encode()
        part = f"{shard_name(shard)}-{hashlib.sha256(lines).hexdigest()[:16]}"
        dataset.write(_part_uri(dataset, part), _compressed(lines))
        sizes = [len(batch) for batch in together((each.source for each in inputs), total)]
        index.append(json.dumps([shard, part, sizes]).encode() + b"\n")
    dataset.write(_index_uri(dataset), _compressed(b"".join(index)))
    return read_index(dataset)


def read_index(dataset: DatasetFolder) -> Iterator[Batch]:
    """Yields the batches of the listing that was written last; none if there is no listing."""
    for shard, part, sizes in _index(dataset):
        first = 0
        for size in sizes:
            yield Batch(shard, part, first, size)
            first += size


def listed_shards(dataset: DatasetFolder) -> Iterator[tuple[int, str]]:
    """Yields the shards of the listing that was written last, each with its part."""
    for shard, part, _ in _index(dataset):
        yield shard, part


def read_part(dataset: DatasetFolder, part: str) -> list[ListedInput]:
    """Reads the inputs of a part, in order."""
    lines = gzip.decompress(files.read(_part_uri(dataset, part))).decode().splitlines()
    return list(map(listed_from_json, lines))


def _index(dataset: DatasetFolder) -> Iterator[tuple[int, str, list[int]]]:
    uri = _index_uri(dataset)
    if files.exists(uri):
        for line in gzip.decompress(files.read(uri)).splitlines():
            yield tuple(json.loads(line))


def _compressed(data: bytes) -> bytes:
    # Compressed fast, since the file is read a few times and deleted after the run. Equal inputs
    # give equal bytes.
    return gzip.compress(data, 1, mtime=0)


def _part_uri(dataset: DatasetFolder, part: str) -> str:
    return uris.join(dataset.listing, f"{part}.jsonl.gz")


def _index_uri(dataset: DatasetFolder) -> str:
    return uris.join(dataset.listing, _INDEX)
