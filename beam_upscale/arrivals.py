"""Tells which of a shard's inputs have arrived, and refuses two inputs with one `input_id`.

Inputs that are as the output's own listing has them are told by their ids alone, a few bytes each.
Of any other, its record crosses the shuffle: no other input can have taken its place meanwhile.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping

from beam_upscale.dataset import DatasetFolder, record_from_json
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.formats import shard_name
from beam_upscale.json_values import to_json
from beam_upscale.listed import listed_shards, read_part
from beam_upscale.listing import SourceImage
from beam_upscale.manifest import Row, Status
from beam_upscale.sorted_map import SortedMap

_KEY_BYTES = 8

# What a row says of its input, and of what was asked for it.
_COMPARED = (
    *("source_uri", "engine", "model", "prompt", "negative_prompt", "cfg_scale", "steps"),
    *("seed", "noise_level", "output_uri"),
)


@dataclasses.dataclass(frozen=True)
class Listed:
    """Inputs of one part of the listing that came as they are listed.

    Attributes:
        part: of the listing.
        keys: of the inputs, one after the other, each as `key_of` gives it.
        is_new: whether something was made of them since their shard was committed.
    """

    part: str
    keys: bytes
    is_new: bool


@dataclasses.dataclass(frozen=True)
class Own:
    """An input that stands in no listing, or that a step of the pipeline has changed since.

    Attributes:
        record: as `Record.to_json` gives it.
        fingerprint: of the input.
        is_new: as of `Listed`.
    """

    record: bytes
    fingerprint: str
    is_new: bool


ShardUpdate = Listed | Own | None
"""An update of a shard; None says that an input is left to a later run."""


def key_of(input_id: str) -> bytes:
    """Eight bytes of the SHA-256 of an id: there may be millions."""
    return hashlib.sha256(input_id.encode()).digest()[:_KEY_BYTES]


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """The inputs of one shard that arrived.

    Attributes:
        parts: of the listing, of which something arrived.
        keys: of inputs that came as they are listed.
        new_keys: of those of them of which something was made.
        own: the others, by their ids.
        is_postponed: whether an input is left to a later run.
    """

    parts: frozenset[str]
    keys: frozenset[bytes]
    new_keys: frozenset[bytes]
    own: Mapping[str, tuple[Own, ...]]
    is_postponed: bool

    @classmethod
    def of(cls, updates: Iterable[ShardUpdate]) -> "Arrivals":
        """Merges the updates of several bundles."""
        found = set(updates)
        listed = [each for each in found if isinstance(each, Listed)]
        own: dict[str, list[Own]] = {}
        # In a set they have no order, and what is said of two is to be the same each time.
        for each in sorted((e for e in found if isinstance(e, Own)), key=lambda own: own.record):
            own.setdefault(record_from_json(each.record).row.input_id, []).append(each)
        return cls(
            parts=frozenset(each.part for each in listed),
            keys=frozenset(key for each in listed for key in _separate(each.keys)),
            new_keys=frozenset(
                key for each in listed if each.is_new for key in _separate(each.keys)
            ),
            own={input_id: tuple(several) for input_id, several in own.items()},
            is_postponed=None in found,
        )

    @property
    def new_own(self) -> dict[str, tuple[Own, ...]]:
        """Those of the others of which something was made."""
        return {
            input_id: several
            for input_id, several in self.own.items()
            if any(each.is_new for each in several)
        }

    @property
    def is_new(self) -> bool:
        """Whether there is something to commit."""
        return bool(self.new_keys or self.new_own)

    def has(self, input_id: str) -> bool:
        """Whether an input arrived."""
        return input_id in self.own or key_of(input_id) in self.keys


def _separate(keys: bytes) -> Iterable[bytes]:
    return (keys[start : start + _KEY_BYTES] for start in range(0, len(keys), _KEY_BYTES))


def refuse_lost(parts: Iterable[str], arrivals: Arrivals, dataset: DatasetFolder) -> None:
    """Raises where a listed input did not arrive, and no step may leave one out.

    Raises:
        LookupError: the runner lost it.
    """
    for part in parts:
        for image in read_part(dataset, part):
            if not arrivals.has(image.input_id):
                raise LookupError(f"the runner has lost {image.input_id}: it came to no end")


def refuse_two_inputs(arrivals: Arrivals, dataset: DatasetFolder) -> None:
    """Raises where two inputs of a shard have one id and are not the same input twice.

    Raises:
        SettingsError: DUPLICATE_ID.
    """
    for input_id, several in arrivals.own.items():
        for other in several[1:]:
            if other.fingerprint != several[0].fingerprint:
                rows = (_row(several[0]), _row(other))
                raise _two_inputs(input_id, _difference(*rows))
    both = {input_id for input_id in arrivals.own if key_of(input_id) in arrivals.keys}
    if not both:
        return
    for image in (image for part in sorted(arrivals.parts) for image in read_part(dataset, part)):
        if image.input_id not in both:
            continue
        own = arrivals.own[image.input_id][0]
        if own.fingerprint != image.fingerprint():
            raise _two_inputs(image.input_id, _difference(_row_of(image), _row(own)))


def refuse_two_sources(sources: Iterable[SourceImage]) -> None:
    """Raises where inputs of one id and with the same bytes are not the same input.

    Raises:
        SettingsError: DUPLICATE_ID.
    """
    first, *others = sources
    for other in others:
        if other.fingerprint() != first.fingerprint():
            rows = (_row_of(first), _row_of(other))
            raise _two_inputs(first.input_id, _difference(*rows))


def _row(own: Own) -> Row:
    return record_from_json(own.record).row


def _row_of(image: SourceImage) -> Row:
    """The row of an input, as far as it is known now."""
    try:
        digest = image.sha256()
    except ImageError:
        digest = None
    return Row(
        image.input_id,
        image.source_uri,
        Status.FAILED,
        source_sha256=image.data_sha256 or digest,
        input=image.columns,
    )


def _two_inputs(input_id: str, difference: str) -> SettingsError:
    return SettingsError(
        ErrorCode.DUPLICATE_ID,
        f"two inputs have the input_id {input_id}, and a manifest has one row for each id: "
        f"{difference}. Give each input an id of its own",
    )


def _difference(row: Row, other: Row) -> str:
    digests = row.source_sha256, other.source_sha256
    if None not in digests and digests[0] != digests[1]:
        return f"the SHA-256 of one is {digests[0]}, of the other {digests[1]}"
    names = [
        name
        for name in _COMPARED
        if None not in (values := {getattr(row, name), getattr(other, name)}) and len(values) > 1
    ]
    own = to_json(row.input), to_json(other.input)
    names += sorted(
        f"the column {name}"
        for name in own[0].keys() | own[1].keys()
        if own[0].get(name) != own[1].get(name)
    )
    return f"they differ in {', '.join(names) or 'their names or captions'}"


class Places:
    """The shards that ids stand in: of committed rows, and of the listing.

    Args:
        dataset: the output, as it is now.
    """

    def __init__(self, dataset: DatasetFolder) -> None:
        self._shards = SortedMap(
            (input_id, str(shard)) for shard, input_id, _ in dataset.committed_names()
        )
        for shard, part in listed_shards(dataset):
            self._shards.add((image.input_id, str(shard)) for image in read_part(dataset, part))

    def refuse_others(self, input_ids: Iterable[str], shard: int) -> None:
        """Raises where an id of a shard's stands in another shard.

        Raises:
            SettingsError: DUPLICATE_ID.
        """
        for input_id in input_ids:
            found = self._shards.get(input_id)
            if found is not None and int(found) != shard:
                raise _two_places(input_id, int(found), shard)


def refuse_two_places(dataset: DatasetFolder) -> None:
    """Raises where one id has rows in two committed shards.

    Raises:
        SettingsError: DUPLICATE_ID.
    """
    places = SortedMap((input_id, str(shard)) for shard, input_id, _ in dataset.committed_names())
    for shard, input_id, _ in dataset.committed_names():
        found = places.get(input_id)
        if found is not None and int(found) != shard:
            raise _two_places(input_id, int(found), shard)


def _two_places(input_id: str, shard: int, other: int) -> SettingsError:
    return SettingsError(
        ErrorCode.DUPLICATE_ID,
        f"the input_id {input_id} stands in shard {shard_name(shard)} and came for shard "
        f"{shard_name(other)} too, and a manifest has one row for each id. Give each input an id "
        "of its own; hand on what ReadImages gave with dataclasses.replace, which keeps its shard; "
        "or take another output",
    )
