"""The images that wait below `.staging` for the data shard that they are packed into."""

import dataclasses
import functools
from collections.abc import Iterable, Mapping

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.records import PackedImage, Record
from beam_upscale.storage import files

# The images of a shard are all read into memory up to this many bytes, beyond one by one.
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
    _whole: dict[str, bytes] = dataclasses.field(default_factory=dict)

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
        """Reads an image from the file of its group, which is read once where memory allows."""
        uri = self.dataset.packed_uri(place.name)
        if not self._fits_in_memory:
            return files.read_range(uri, place.offset, place.size)
        if place.name not in self._whole:
            self._whole[place.name] = files.read(uri)
        return self._whole[place.name][place.offset : place.offset + place.size]

    @functools.cached_property
    def _fits_in_memory(self) -> bool:
        return sum(place.size for place in self.packed.values()) <= _MOST_BYTES

    def delete(self, input_ids: Iterable[str]) -> None:
        """Removes the files of the images, which the data shard holds by now.

        Args:
            input_ids: the ids of all inputs of the shard.
        """
        for name in {place.name for place in self.packed.values()}:
            self.dataset.delete(self.dataset.packed_uri(name))
        if self.has_singles:
            for input_id in input_ids:
                self.dataset.delete(self.dataset.waiting_image_uri(input_id))
