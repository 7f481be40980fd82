"""The images that wait below `.staging` for the data shard that they are packed into."""

import collections
import dataclasses
import functools
from collections.abc import Iterable, Mapping

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.records import PackedImage, Record
from beam_upscale.storage import files

# The files of groups are read whole, and kept up to this many bytes: about two of full groups.
_MOST_BYTES = 32 << 20


@dataclasses.dataclass(frozen=True)
class WaitingImages:
    """The images that wait for one shard.

    Attributes:
        dataset: the output.
        packed: the places of those that wait in files of their groups, by the ids of their inputs.
        has_singles: True if any image of the output waits in a file of its own.
    """

    dataset: DatasetFolder
    packed: Mapping[str, PackedImage]
    has_singles: bool
    _whole: "_WholeFiles" = dataclasses.field(default_factory=lambda: _WholeFiles())

    @classmethod
    def of(cls, records: Iterable[Record], dataset: DatasetFolder) -> "WaitingImages":
        """Looks for the images of the records of a shard.

        An earlier commit of the shard may have put images into it and removed their files.
        """
        named = {each.row.input_id: each.packed for each in records if each.packed is not None}
        names = {place.name for place in named.values()}
        there = {name for name in names if files.exists(dataset.packed_uri(name))}
        packed = {input_id: place for input_id, place in named.items() if place.name in there}
        has_singles = any(True for _ in files.list_below(dataset.waiting_images))
        return cls(dataset, packed, has_singles)

    def read(self, input_id: str) -> bytes | None:
        """Returns the image of an input; None if none waits.

        Raises:
            ImageError: it is gone, because the shard was committed meanwhile.
        """
        place = self.packed.get(input_id)
        if place is not None:
            return self._part(place)
        if not self.has_singles:
            return None
        uri = self.dataset.waiting_image_uri(input_id)
        return files.read(uri) if files.exists(uri) else None

    def _part(self, place: PackedImage) -> bytes:
        """Reads an image from the file of its group."""
        uri = self.dataset.packed_uri(place.name)
        return self._whole.part(uri, place, self._ends[place.name])

    @functools.cached_property
    def _ends(self) -> Mapping[str, int]:
        """The end of the last image that counts, of each file."""
        ends: dict[str, int] = {}
        for place in self.packed.values():
            ends[place.name] = max(ends.get(place.name, 0), place.offset + place.size)
        return ends

    def delete(self, input_ids: Iterable[str]) -> None:
        """Removes the files of the images, which the data shard holds by now.

        Those of single images go first: one that a group has replaced must not be what is left.

        Args:
            input_ids: the ids of all inputs of the shard.
        """
        if self.has_singles:
            for input_id in input_ids:
                self.dataset.delete(self.dataset.waiting_image_uri(input_id))
        for name in {place.name for place in self.packed.values()}:
            self.dataset.delete(self.dataset.packed_uri(name))


class _WholeFiles:
    """The files of groups that were read last, each with one request.

    Neighbors by id are mostly of one group. Where they are not, a file may be needed again when it
    is kept no more; then each of its images is read by itself.
    """

    def __init__(self) -> None:
        self._files: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._were_read: set[str] = set()

    def part(self, uri: str, place: PackedImage, end: int) -> bytes:
        """Returns an image.

        Args:
            uri: the URI of its file.
            place: its place in the file.
            end: the number of bytes of the file that are needed.
        """
        if (data := self._files.get(uri)) is None:
            if uri in self._were_read or end > _MOST_BYTES:
                return files.read_range(uri, place.offset, place.size)
            data = self._read(uri, end)
        self._files.move_to_end(uri)
        return data[place.offset : place.offset + place.size]

    def _read(self, uri: str, end: int) -> bytes:
        # Room is made before the file is read.
        while self._files and sum(map(len, self._files.values())) + end > _MOST_BYTES:
            self._files.popitem(last=False)
        self._were_read.add(uri)
        self._files[uri] = files.read_range(uri, 0, end)
        return self._files[uri]
