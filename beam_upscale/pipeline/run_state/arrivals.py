"""Checks that all inputs of a shard arrived, and that no two of them share an `input_id`.

An input that equals its entry in the output's listing crosses the shuffle as eight bytes, a hash
of its id. Any other input crosses with its record, so that no other input with that id can replace
it unnoticed.
"""

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Mapping

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import shard_name
from beam_upscale.dataset.manifest.json_values import to_json
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import record_from_json
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.pipeline.run_state.input_state import fingerprint, state_of
from beam_upscale.pipeline.run_state.listing_files import ListedInput, listed_shards, read_part
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage.sorted_map import SortedMap

_HASH_BYTES = 8

# The fields of a row that describe its input and its requested parameters.
_COMPARED = (
    *("source_uri", "engine", "model", "prompt", "negative_prompt", "cfg_scale", "steps"),
    *("seed", "noise_level", "output_uri"),
)


@dataclasses.dataclass(frozen=True)
class ListedArrivals:
    """The inputs of one part of the listing that arrived unchanged from their entries there.

    Attributes:
        part: the part of the listing.
        hashes: the hashes of the inputs' ids, concatenated; each is the eight bytes of `id_hash`.
        is_new: True if their results were made after the last commit of their shard.
    """

    part: str
    hashes: bytes
    is_new: bool


@dataclasses.dataclass(frozen=True)
class UnlistedArrival:
    """An input that is in no listing, or that a step of the pipeline has changed since.

    Attributes:
        record: the input's record, as `Record.to_json` encodes it.
        fingerprint: the input's `input_state.fingerprint`.
        is_new: as in `ListedArrivals`.
    """

    record: bytes
    fingerprint: str
    is_new: bool


ShardUpdate = ListedArrivals | UnlistedArrival | None
"""An update of a shard; None stands for an input that is left to a later run."""


def id_hash(input_id: str) -> bytes:
    """Returns the first eight bytes of the SHA-256 of an id; short, as there may be millions."""
    return hashlib.sha256(input_id.encode()).digest()[:_HASH_BYTES]


@dataclasses.dataclass(frozen=True)
class Arrivals:
    """The inputs of one shard that arrived.

    Attributes:
        parts: the parts of the listing of which at least one input arrived.
        hashes: the hashes of the ids of the inputs that arrived unchanged from the listing.
        new_hashes: those of `hashes` whose results are new since the last commit.
        unlisted: the other inputs, by their ids; several only where inputs share an id.
        is_postponed: True if an input is left to a later run.
    """

    parts: frozenset[str]
    hashes: frozenset[bytes]
    new_hashes: frozenset[bytes]
    unlisted: Mapping[str, tuple[UnlistedArrival, ...]]
    is_postponed: bool

    @classmethod
    def of(cls, updates: Iterable[ShardUpdate]) -> "Arrivals":
        """Merges the updates of several bundles."""
        found = set(updates)
        listed = [each for each in found if isinstance(each, ListedArrivals)]
        unlisted: dict[str, list[UnlistedArrival]] = {}
        others = (each for each in found if isinstance(each, UnlistedArrival))
        # A set has no order; sorted, an error about two inputs has the same text each time.
        for each in sorted(others, key=lambda other: other.record):
            unlisted.setdefault(record_from_json(each.record).row.input_id, []).append(each)
        return cls(
            parts=frozenset(each.part for each in listed),
            hashes=frozenset(one for each in listed for one in _separate(each.hashes)),
            new_hashes=frozenset(
                one for each in listed if each.is_new for one in _separate(each.hashes)
            ),
            unlisted={input_id: tuple(several) for input_id, several in unlisted.items()},
            is_postponed=None in found,
        )

    @property
    def new_unlisted(self) -> dict[str, tuple[UnlistedArrival, ...]]:
        """The inputs of `unlisted` whose results are new since the last commit, by their ids."""
        return {
            input_id: several
            for input_id, several in self.unlisted.items()
            if any(each.is_new for each in several)
        }

    @property
    def is_new(self) -> bool:
        """True if there is a new result to commit."""
        return bool(self.new_hashes or self.new_unlisted)

    def has(self, input_id: str) -> bool:
        """Checks whether an input arrived."""
        return input_id in self.unlisted or id_hash(input_id) in self.hashes


def _separate(hashes: bytes) -> Iterable[bytes]:
    return (hashes[at : at + _HASH_BYTES] for at in range(0, len(hashes), _HASH_BYTES))


def refuse_lost(listed: Iterable[ListedInput], arrivals: Arrivals) -> None:
    """Raises if one of these inputs of the listing did not arrive.

    Raises:
        LookupError: the runner lost an input; no step leaves one out.
    """
    for input_id in (each.source.input_id for each in listed):
        if not arrivals.has(input_id):
            raise LookupError(f"the runner has lost {input_id}: it never came to its end")


def refuse_two_inputs(arrivals: Arrivals, dataset: DatasetFolder) -> None:
    """Raises if two different inputs of a shard have one id; the same input twice is allowed.

    Raises:
        SettingsError: DUPLICATE_ID.
    """
    for input_id, several in arrivals.unlisted.items():
        for other in several[1:]:
            if other.fingerprint != several[0].fingerprint:
                rows = (_row(several[0]), _row(other))
                raise _two_inputs(input_id, _difference(*rows))
    both = {input_id for input_id in arrivals.unlisted if id_hash(input_id) in arrivals.hashes}
    if not both:
        return
    for source in _listed_sources(sorted(arrivals.parts), dataset):
        if source.input_id not in both:
            continue
        arrived = arrivals.unlisted[source.input_id][0]
        if arrived.fingerprint != fingerprint(source):
            raise _two_inputs(source.input_id, _difference(_row_of(source), _row(arrived)))


def refuse_two_sources(sources: Iterable[SourceImage]) -> None:
    """Raises if inputs with one id and the same bytes are not the same input.

    Raises:
        SettingsError: DUPLICATE_ID.
    """
    first, *others = sources
    for other in others:
        if fingerprint(other) != fingerprint(first):
            rows = (_row_of(first), _row_of(other))
            raise _two_inputs(first.input_id, _difference(*rows))


def _listed_sources(parts: Iterable[str], dataset: DatasetFolder) -> Iterator[SourceImage]:
    return (listed.source for part in parts for listed in read_part(dataset, part))


def _row(arrived: UnlistedArrival) -> Row:
    return record_from_json(arrived.record).row


def _row_of(source: SourceImage) -> Row:
    """Returns the row of an input, with the fields that are known before it is upscaled."""
    try:
        digest = source.sha256()
    except ImageError:
        digest = None
    return Row(
        source.input_id,
        source.source_uri,
        Status.FAILED,
        source_sha256=state_of(source).data_sha256 or digest,
        input=source.columns,
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


class ShardOfId:
    """The shard of each id, from the committed rows and from the listing.

    Args:
        dataset: the output, read at construction.
    """

    def __init__(self, dataset: DatasetFolder) -> None:
        self._shards = SortedMap(
            (input_id, str(shard)) for shard, input_id, _ in dataset.committed_names()
        )
        for shard, part in listed_shards(dataset):
            sources = _listed_sources([part], dataset)
            self._shards.add((source.input_id, str(shard)) for source in sources)

    def refuse_others(self, input_ids: Iterable[str], shard: int) -> None:
        """Raises if an id of this shard is also in another shard.

        Raises:
            SettingsError: DUPLICATE_ID.
        """
        for input_id in input_ids:
            found = self._shards.get(input_id)
            if found is not None and int(found) != shard:
                raise _two_shards(input_id, int(found), shard)


def refuse_two_shards(dataset: DatasetFolder) -> None:
    """Raises if one id has rows in two committed shards.

    Raises:
        SettingsError: DUPLICATE_ID.
    """
    shards = SortedMap((input_id, str(shard)) for shard, input_id, _ in dataset.committed_names())
    for shard, input_id, _ in dataset.committed_names():
        found = shards.get(input_id)
        if found is not None and int(found) != shard:
            raise _two_shards(input_id, int(found), shard)


def _two_shards(input_id: str, shard: int, other: int) -> SettingsError:
    return SettingsError(
        ErrorCode.DUPLICATE_ID,
        f"the input_id {input_id} is in shard {shard_name(shard)} and arrived for shard "
        f"{shard_name(other)} too, and a manifest has one row for each id. Give each input an id "
        "of its own; change inputs of ReadImages with dataclasses.replace, which keeps the shard; "
        "or take another output",
    )
