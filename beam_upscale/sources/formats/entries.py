"""The files that a pattern names, kept on the local disk, as there may be millions."""

import json
from collections.abc import Iterable, Iterator

from beam_upscale.storage.protocol.store import FileEntry
from beam_upscale.storage.sorted_map import SortedMap


class Entries:
    """The files in the order of their URIs, on the local disk.

    Args:
        entries: the files, in any order.
    """

    def __init__(self, entries: Iterable[FileEntry]) -> None:
        self._entries = SortedMap(
            (entry.uri, json.dumps([entry.name, entry.is_folder])) for entry in entries
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[FileEntry]:
        for uri, text in self._entries.items():
            yield FileEntry(uri, *json.loads(text))

    def get(self, uri: str) -> FileEntry | None:
        """Returns the file with a URI; None if it is not among them."""
        text = self._entries.get(uri)
        return None if text is None else FileEntry(uri, *json.loads(text))
