"""The entries of the books: paid calls, and the known state of their charges."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from decimal import Decimal
from enum import StrEnum
from typing import Any, Protocol

import pyarrow as pa

from beam_upscale.dataset.manifest.row import CREDITS
from beam_upscale.planning.parameters import Parameters

STEP = Decimal(1).scaleb(-CREDITS.scale)
"""The smallest amount that is accounted for."""


class State(StrEnum):
    """The known state of the charge for a sending."""

    SENT = "sent"
    CHARGED = "charged"
    FREE = "free"


@dataclasses.dataclass(frozen=True)
class CallKey:
    """The key of a paid call: its input, engine and tile.

    Attributes:
        input_id: id of the input.
        stage: index of the engine in its chain.
        tile: index of the tile among the image's.
    """

    input_id: str
    stage: int
    tile: int

    @property
    def path(self) -> str:
        """The call's path in the books: one of 256 folders, and a SHA-256 in hexadecimal."""
        text = json.dumps([self.input_id, self.stage, self.tile])
        digest = hashlib.sha256(text.encode()).hexdigest()
        return f"{digest[:2]}/{digest}"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One sending of a paid call.

    Attributes:
        id: an id that is unique among all entries.
        n: the number of the entry among those of its call, from 1; 0 if it was made from a row.
        request_id: the id by which the service knows the call.
        input_id: id of the input.
        stage: index of the engine in the chain.
        tile: index of the tile.
        engine: name of the engine.
        work: the hash of `work_of`; shows whether the input and its parameters are unchanged.
        credits: the price by the price list; the charge instead, if the service reports it.
        run: the run that sent the call.
        endpoint: the service that the call was sent to.
        ledger: the service's ledger for the key, if it charges a repeated request once; else None.
        sent_at: time of sending, in seconds since the epoch.
        repeats: id of the first entry of the group; None for the first entry itself.
        state: the known state of the charge.
    """

    id: str
    n: int
    request_id: str
    input_id: str
    stage: int
    tile: int
    engine: str
    work: str
    credits: Decimal
    run: str
    endpoint: str
    ledger: str | None
    sent_at: float
    repeats: str | None = None
    state: State = State.SENT

    @property
    def key(self) -> CallKey:
        """The key of the call."""
        return CallKey(self.input_id, self.stage, self.tile)

    @property
    def group(self) -> str:
        """The id of the entry's group; a group counts once."""
        return self.repeats or self.id

    def to_json(self) -> bytes:
        """Returns the entry as UTF-8 JSON, exact to the last digit."""
        return json.dumps({**self.to_dict(), "credits": str(self.credits)}).encode()

    def to_dict(self) -> dict[str, Any]:
        """Returns the attributes by their names."""
        return {name: getattr(self, name) for name in SCHEMA.names}


def entry_from_json(data: bytes) -> Entry:
    """Parses an entry; the inverse of `Entry.to_json`."""
    return entry_of(json.loads(data))


def entry_of(values: Mapping[str, Any]) -> Entry:
    """Makes an entry from a dictionary of its attributes, as JSON and Arrow give it.

    Other keys are ignored: a later version may have added them.
    """
    amount, state = Decimal(values["credits"]), State(values["state"])
    known = {name: values[name] for name in SCHEMA.names}
    return Entry(**{**known, "credits": amount, "state": state})


SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("n", pa.int32()),
        ("request_id", pa.string()),
        ("input_id", pa.string()),
        ("stage", pa.int32()),
        ("tile", pa.int32()),
        ("engine", pa.string()),
        ("work", pa.string()),
        ("credits", CREDITS),
        ("run", pa.string()),
        ("endpoint", pa.string()),
        ("ledger", pa.string()),
        ("sent_at", pa.float64()),
        ("repeats", pa.string()),
        ("state", pa.string()),
    ]
)


def work_of(source_sha256: str, parameters: Parameters | None) -> str:
    """Hashes an input's bytes and its own parameters, without the settings of the run.

    Args:
        source_sha256: SHA-256 of the input's bytes.
        parameters: the input's own, before a seed is derived; None if no engine takes any.
    """
    values = None if parameters is None else dataclasses.astuple(parameters)
    return hashlib.sha256(json.dumps([source_sha256, values]).encode()).hexdigest()


class ChargingService(Protocol):
    """A service, as far as its charges for repeated requests are known."""

    @property
    def ledger(self) -> str | None:
        """The id of the service's ledger; None if none is known."""

    def charges_once_after(self, seconds: float) -> bool:
        """Checks whether a repeat this long after the first request is still free."""


@dataclasses.dataclass(frozen=True)
class Group:
    """The entries of a call and its repeats, which are charged once at most.

    Attributes:
        first: the entry that was sent first.
        entries: all entries of the group.
    """

    first: Entry
    entries: tuple[Entry, ...]

    @property
    def state(self) -> State:
        """CHARGED if an entry is, else SENT if one is, else FREE."""
        states = {entry.state for entry in self.entries}
        return next(state for state in (State.CHARGED, State.SENT, State.FREE) if state in states)

    def is_repeated_free(self, service: ChargingService, at: float) -> bool:
        """Checks whether a repeat at this time, in epoch seconds, adds no charge to the group."""
        is_known = service.ledger is not None and self.first.ledger == service.ledger
        is_young = service.charges_once_after(at - self.first.sent_at)
        return is_known and is_young and self.state is not State.FREE


def grouped(entries: Iterable[Entry]) -> list[Group]:
    """Groups entries; the group whose first entry was sent last comes first.

    Args:
        entries: entries of one call. Of two with the same id, the settled one counts. Groups whose
            first entry is missing are left out.
    """
    by_id: dict[str, Entry] = {}
    for entry in entries:
        before = by_id.get(entry.id)
        if before is None or before.state is State.SENT:
            by_id[entry.id] = entry
    members: dict[str, list[Entry]] = {}
    for entry in by_id.values():
        members.setdefault(entry.group, []).append(entry)
    groups = [Group(by_id[id_], tuple(found)) for id_, found in members.items() if id_ in by_id]
    return sorted(groups, key=lambda group: (group.first.sent_at, group.first.id), reverse=True)
