"""Groups of records: the records that a worker makes durable together are one object.

    .staging/groups/<shard>/<hash>.json      the records of a group's inputs of one shard
    .staging/groups/<shard>/<hash>.images    their images, in layouts that pack them, one after
                                             the other

The first line of an object of records has the ids of the inputs, each further line a record. An
object is named by its content, so that a group that is written twice is one, and no worker, attempt
of a bundle or run replaces the group of another. An object never changes; so a process reads each
once to know whose records it has, and a look for records made since lists the folder of a shard.
Beyond a limit on memory an object is read again when one of its records is found.

Several groups may have a record of one input, if a bundle ran twice or if a later run did the input
again; `records.latest` chooses.
"""

import collections
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from beam_upscale.dataset.records import Record, latest, record_from_json
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris

_RECORDS = ".json"

# The bytes of records that a process keeps: some fifteen thousand rows.
_MOST_BYTES = 16 << 20

# The inputs of which a process knows in which objects their records are.
_MOST_INPUTS = 200_000

# The objects that are read at a time.
_READERS = 16


def group_of(records: Sequence[Record]) -> tuple[str, bytes]:
    """Returns the name and the content of the object that holds these records, at least one."""
    ids = json.dumps([record.row.input_id for record in records]).encode()
    content = b"\n".join([ids, *(record.to_json() for record in records), b""])
    return f"{hashlib.sha256(content).hexdigest()}{_RECORDS}", content


def is_of_records(name: str) -> bool:
    """Checks whether a file of a group, by its name, holds records; False if it holds images."""
    return name.endswith(_RECORDS)


class _Objects:
    """The records of the objects that this process has read last, by the objects' URIs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._objects: collections.OrderedDict[str, Mapping[str, bytes]] = collections.OrderedDict()
        self.bytes = 0

    def put(self, uri: str, content: bytes) -> Mapping[str, bytes]:
        """Keeps an object in place of those used longest ago; returns its lines, by input ids."""
        ids, *lines = content.split(b"\n")
        # The last line is empty.
        records = dict(zip(json.loads(ids), lines, strict=False))
        with self._lock:
            self._drop(uri)
            self._objects[uri] = records
            self.bytes += _size(records)
            while self.bytes > _MOST_BYTES and len(self._objects) > 1:
                self._drop(next(iter(self._objects)))
        return records

    def get(self, uri: str) -> Mapping[str, bytes] | None:
        """Returns the lines of an object, by the ids of their inputs; None if it is not kept."""
        with self._lock:
            if (found := self._objects.get(uri)) is not None:
                self._objects.move_to_end(uri)
            return found

    def _drop(self, uri: str) -> None:
        if (dropped := self._objects.pop(uri, None)) is not None:
            self.bytes -= _size(dropped)


def _size(records: Mapping[str, bytes]) -> int:
    return sum(map(len, records.values()))


class ShardGroups:
    """The groups of one shard, as this process has read them.

    Args:
        folder: the URI of the shard's folder of groups.
        objects: the objects that this process keeps, of all shards.
    """

    def __init__(self, folder: str, objects: _Objects) -> None:
        self._folder = folder
        self._objects = objects
        self._lock = threading.Lock()
        self._names: set[str] = set()
        # Of each input the names of the objects that have a record of it.
        self._names_of: dict[str, tuple[str, ...]] = {}
        self._read_at = -float("inf")

    def read(self, since: float) -> bool:
        """Reads the groups that are there now, unless this was done at or after `since`.

        Args:
            since: a time by `time.monotonic`.

        Returns:
            True if it looked.
        """
        with self._lock:
            if self._read_at >= since:
                return False
            begun = time.monotonic()
            names = set(filter(is_of_records, store_of(self._folder).names_in(self._folder)))
            if not self._names <= names:
                # Another run has begun anew, or has sorted the records by new shards.
                self._names, self._names_of = set(), {}
            self._add(sorted(names - self._names))
            self._read_at = begun
            return True

    def _add(self, names: Sequence[str]) -> None:
        if len(names) < 2 or store_of(self._folder).is_local:
            self._note(names, map(self._records, names))
        else:
            with ThreadPoolExecutor(_READERS) as readers:
                self._note(names, readers.map(self._records, names))

    def _note(self, names: Sequence[str], several: Iterable[Mapping[str, bytes] | None]) -> None:
        for name, records in zip(names, several, strict=True):
            # None: the run has ended since the folder was listed, and with it the records.
            if records is None:
                continue
            self._names.add(name)
            # One tuple for all inputs of an object, most of which are in no other.
            alone = (name,)
            for input_id in records:
                before = self._names_of.get(input_id)
                self._names_of[input_id] = alone if before is None else (*before, name)

    def _records(self, name: str) -> Mapping[str, bytes] | None:
        """Returns the lines of an object, by the ids of their inputs; None if it is gone."""
        uri = uris.join(self._folder, name)
        if (found := self._objects.get(uri)) is not None:
            return found
        content = files.read_if_there(uri)
        return None if content is None else self._objects.put(uri, content)

    def find(self, input_id: str) -> Record | None:
        """Returns the record of an input; None if no group that was read has one."""
        several = map(self._records, self._names_of.get(input_id, ()))
        return latest(record_from_json(each[input_id]) for each in several if each is not None)

    def ids(self) -> list[str]:
        """Returns the ids of the inputs that have a record, each once."""
        return list(self._names_of)

    def __len__(self) -> int:
        """Returns the number of these inputs."""
        return len(self._names_of)


class _Kept:
    """The groups that this process knows, of the shards that were looked at last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shards: collections.OrderedDict[str, ShardGroups] = collections.OrderedDict()
        self.objects = _Objects()

    def of(self, folder: str) -> ShardGroups:
        """Returns those of one shard's folder."""
        with self._lock:
            found = self._shards.pop(folder, None)
            if found is None:
                found = ShardGroups(folder, self.objects)
            self._shards[folder] = found
            return found

    def trim(self) -> None:
        """Forgets the shards beyond the limit on memory that were looked at longest ago."""
        with self._lock:
            inputs = sum(map(len, self._shards.values()))
            while len(self._shards) > 1 and inputs > _MOST_INPUTS:
                inputs -= len(self._shards.popitem(last=False)[1])


_kept = _Kept()


def _forget() -> None:
    # Another thread may have had a lock when this process was forked.
    global _kept
    _kept = _Kept()


os.register_at_fork(after_in_child=_forget)


def groups_of_shard(folder: str, since: float) -> ShardGroups:
    """Returns the groups of one shard, read at or after a time; threads of a process share them.

    Args:
        folder: the URI of the shard's folder of groups.
        since: a time by `time.monotonic`.
    """
    kept = _kept
    found = kept.of(folder)
    if found.read(since):
        kept.trim()
    return found


def shards_with_groups(folder: str) -> Iterator[str]:
    """Yields the names of the shards that have groups, in order.

    Args:
        folder: the URI of the folder of all groups.
    """
    yield from sorted(store_of(folder).names_in(folder))
