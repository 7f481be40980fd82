"""Groups of records: the records that a worker makes durable together are one object.

    .staging/groups/<shard>/<hash>.json      the records of a group's inputs of one shard
    .staging/groups/<shard>/<hash>.images    their images, in layouts that pack them, one after
                                             the other

The first line of an object of records has the ids of the inputs, each further line a record. An
object is named by its content, so that a group that is written twice is one, and no worker, attempt
of a bundle or run replaces the group of another. An object never changes; so a process reads each
once, and a look for records made since lists the folder of a shard.

Several groups may have a record of one input, if a bundle ran twice or if a later run did the input
again; `records.latest` chooses.
"""

import collections
import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from beam_upscale.dataset.records import Record, latest, record_from_json
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris

_RECORDS = ".json"

# The bytes of groups that a process keeps: some fifteen shards of a thousand rows.
_MOST_BYTES = 16 << 20

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


class ShardGroups:
    """The groups of one shard, as this process has read them.

    Args:
        folder: the URI of the shard's folder of groups.
    """

    def __init__(self, folder: str) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._names: set[str] = set()
        self._lines: dict[str, list[bytes]] = {}
        self._read_at = -float("inf")
        self.bytes = 0

    def read(self, since: float) -> None:
        """Reads the groups that are there now, unless this was done at or after `since`.

        Args:
            since: a time by `time.monotonic`.
        """
        with self._lock:
            if self._read_at >= since:
                return
            begun = time.monotonic()
            found = store_of(self._folder).names_in(self._folder)
            names = set(filter(is_of_records, found))
            if not self._names <= names:
                # Another run has begun anew, or has sorted the records by new shards.
                self._names, self._lines, self.bytes = set(), {}, 0
            self._add(sorted(names - self._names))
            self._read_at = begun

    def _add(self, names: Sequence[str]) -> None:
        uris_ = [uris.join(self._folder, name) for name in names]
        if len(names) < 2 or store_of(self._folder).is_local:
            contents = list(map(files.read_if_there, uris_))
        else:
            with ThreadPoolExecutor(_READERS) as readers:
                contents = list(readers.map(files.read_if_there, uris_))
        for name, content in zip(names, contents, strict=True):
            # None: the run has ended since the folder was listed, and with it the records.
            if content is not None:
                self._names.add(name)
                self.bytes += len(content)
                ids, *lines = content.split(b"\n")
                # The last line is empty.
                for input_id, line in zip(json.loads(ids), lines, strict=False):
                    self._lines.setdefault(input_id, []).append(line)

    def find(self, input_id: str) -> Record | None:
        """Returns the record of an input; None if no group that was read has one."""
        lines = self._lines.get(input_id)
        return latest(map(record_from_json, lines)) if lines else None

    def ids(self) -> list[str]:
        """Returns the ids of the inputs that have a record, each once."""
        return list(self._lines)


class _Kept:
    """The groups that this process keeps, of the shards that were looked at last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._shards: collections.OrderedDict[str, ShardGroups] = collections.OrderedDict()

    def of(self, folder: str) -> ShardGroups:
        """Returns those of one shard's folder, and drops others beyond the limit on memory."""
        with self._lock:
            found = self._shards.pop(folder, None) or ShardGroups(folder)
            size = found.bytes + sum(each.bytes for each in self._shards.values())
            while self._shards and size > _MOST_BYTES:
                size -= self._shards.popitem(last=False)[1].bytes
            self._shards[folder] = found
            return found


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
    found = _kept.of(folder)
    found.read(since)
    return found


def shards_with_groups(folder: str) -> Iterator[str]:
    """Yields the names of the shards that have groups, in order.

    Args:
        folder: the URI of the folder of all groups.
    """
    yield from sorted(store_of(folder).names_in(folder))
