"""The files that a pattern names, in order; there may be millions."""

from collections.abc import Iterable, Iterator

from beam_upscale.storage.protocol.store import FileEntry
from beam_upscale.storage.sorted_map import SortedMap


class Entries:
    """The files in the order of their URIs.

    Args:
        entries: the files, in any order.
    """

    def __init__(self, entries: Iterable[FileEntry]) -> None:
        self._entries = SortedMap(
            (entry.uri, f"{entry.is_folder:d}{entry.name}") for entry in entries
        )

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[FileEntry]:
        for uri, text in self._entries.items():
            yield _entry(uri, text)

    def uris(self) -> Iterator[str]:
        """Yields the URIs of all files, in order."""
        return iter(self._entries)

    def get(self, uri: str) -> FileEntry | None:
        """Returns the file with a URI; None if it is not among them."""
        text = self._entries.get(uri)
        return None if text is None else _entry(uri, text)


def _entry(uri: str, text: str) -> FileEntry:
    return FileEntry(uri, text[1:], is_folder=text[0] == "1")
