"""The format of an output's `run.json`: all keys but the settings' are written and read here.

An attribute may be renamed without a change to the file. If a key is renamed, added or given
another meaning, the version grows, and `upgraded` converts files of the version before. What the
settings hold is written and read by the code that pins them; their keys have the same version.
"""

import dataclasses
import json
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from beam_upscale.dataset.manifest.totals import Totals
from beam_upscale.errors import ErrorCode, SettingsError

RUN_FORMAT = "beam-upscale/1"
"""The value of `format`, which distinguishes the file from others of its name."""

VERSION = 2
"""The version of the format; files of version 1 do not name theirs."""


@dataclasses.dataclass(frozen=True)
class CommittedShard:
    """A shard of a complete dataset, with what `verify` compares.

    Attributes:
        name: the name of its files, without an extension.
        rows: number of rows in its manifest.
        manifest_sha256: of its manifest, in hexadecimal.
        data_sha256: of its file of images, in hexadecimal; None in a layout without one.
    """

    name: str
    rows: int
    manifest_sha256: str
    data_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class RunJson:
    """The content of `run.json`: how a run makes a dataset, and how it ended.

    Attributes:
        settings: those on which results depend, as JSON; None if they are not known.
        endpoint: HOST:PORT of the service that is called; None if the engines are local.
        layout: name of the layout.
        shard_rows: number of rows in a shard; None leaves it to the inputs' source.
        max_credits: the budget in credits, exact to the last digit; None if there is none.
        versions: of this package, of those that it uses, of Python, and the kind of machine.
        books: number of the books' format; None if they may lack calls of an earlier version.
        earlier_oversize: rule by which earlier runs made images above an engine's limit fit, if
            this one rejects such images; None if there is none.
        complete: True if every input has a row, and the dataset can be verified.
        totals: sums over the rows and the books when the run ended; None before.
        shards: of a complete dataset, in order.
        card_sha256: of the dataset card, in hexadecimal; None unless complete.
        others: values of a user's own, by their keys.
    """

    settings: Mapping[str, Any] | None = None
    endpoint: str | None = None
    layout: str | None = None
    shard_rows: int | None = None
    max_credits: str | None = None
    versions: Mapping[str, str] = dataclasses.field(default_factory=dict)
    books: int | None = None
    earlier_oversize: str | None = None
    complete: bool = False
    totals: Totals | None = None
    shards: tuple[CommittedShard, ...] = ()
    card_sha256: str | None = None
    others: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def has_local_engines(self) -> bool:
        """True if it is known that no service is called, and so that no result is paid."""
        return self.settings is not None and self.endpoint is None

    def at_start(self) -> "RunJson":
        """Returns the part that is known before the first image."""
        return dataclasses.replace(self, complete=False, totals=None, shards=(), card_sha256=None)

    def as_read(self) -> "RunJson":
        """Returns the content as it is read back: JSON knows no tuples and no `Decimal`."""
        return RunJson.from_json(json.loads(json.dumps(self.to_json(), default=str)))

    def to_json(self) -> dict[str, Any]:
        """Returns the values of the file by their keys, in the format of this version."""
        known = {
            "books": self.books,
            "earlier_oversize": self.earlier_oversize,
            "totals": None if self.totals is None else _totals_to_json(self.totals),
        }
        return {
            **self.others,
            "format": RUN_FORMAT,
            "version": VERSION,
            "settings": self.settings,
            "endpoint": self.endpoint,
            "layout": self.layout,
            "shard_rows": self.shard_rows,
            "max_credits": self.max_credits,
            "versions": self.versions,
            "complete": self.complete,
            **{name: value for name, value in known.items() if value is not None},
            **self._end_to_json(),
        }

    def _end_to_json(self) -> dict[str, Any]:
        if not self.complete:
            return {}
        return {
            "shards": [_shard_to_json(shard) for shard in self.shards],
            "card_sha256": self.card_sha256,
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> "RunJson":
        """Reads the values of a file of this version or of one before; keys may be missing.

        Raises:
            SettingsError: SETTINGS_CHANGED, a later version of this package wrote the file.
        """
        found = upgraded(values)
        totals = found.get("totals")
        return cls(
            settings=found.get("settings"),
            endpoint=found.get("endpoint"),
            layout=found.get("layout"),
            shard_rows=found.get("shard_rows"),
            max_credits=found.get("max_credits"),
            versions=found.get("versions", {}),
            books=found.get("books"),
            earlier_oversize=found.get("earlier_oversize"),
            complete=bool(found.get("complete")),
            totals=None if totals is None else _read_totals(totals),
            shards=tuple(_read_shard(shard) for shard in found.get("shards", ())),
            card_sha256=found.get("card_sha256"),
            others={name: value for name, value in found.items() if name not in _KEYS},
        )


_END = frozenset({"complete", "totals", "shards", "card_sha256"})
_KEYS = _END | {
    *("format", "version", "settings", "endpoint", "layout", "shard_rows", "max_credits"),
    *("versions", "books", "earlier_oversize"),
}


def given_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values that a user gives for `run.json`, in the format of this version.

    What the end of a run adds is left out.

    Args:
        values: some or all of the values. Without a `version` they are of version 1; a version
            that they name is not looked at.
    """
    given = {name: value for name, value in values.items() if name not in _END}
    return given if "version" in given else upgraded(given)


def upgraded(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values of `run.json` in the format of this version.

    Raises:
        SettingsError: SETTINGS_CHANGED, they are of a later version.
    """
    version = values.get("version", 1)
    if version == VERSION:
        return dict(values)
    if version != 1:
        raise SettingsError(
            ErrorCode.SETTINGS_CHANGED,
            f"the output has a run.json of version {version}, and this version of beam-upscale "
            f"knows versions up to {VERSION}: go on with the later version that wrote it, or take "
            "another output",
        )
    return {**_from_version_1(values), "version": VERSION}


# Version 1. The texts are those of that time, whatever the names of today.


def _from_version_1(values: Mapping[str, Any]) -> dict[str, Any]:
    """Adds the keys that settings of version 1 may lack.

    Before there was a choice, all metadata was kept and PyTorch ran super-resolution networks.
    """
    settings = values.get("settings")
    if settings is None:
        return dict(values)
    changes: dict[str, Any] = {}
    if "encode" in settings:
        changes["encode"] = {"metadata": "keep", **settings["encode"]}
    if "stages" in settings:
        changes["stages"] = [_stage_from_version_1(stage) for stage in settings["stages"]]
    return {**values, "settings": {**settings, **changes}}


def _stage_from_version_1(stage: Mapping[str, Any]) -> dict[str, Any]:
    model = stage.get("model", {})
    if "max_tile_pixels" not in model:
        return dict(stage)
    return {**stage, "model": {"network_backend": "torch", **model}}


# Parts


def _totals_to_json(totals: Totals) -> dict[str, Any]:
    """Returns the totals as JSON; amounts of money are texts, exact to the last digit."""
    return {
        "rows": totals.rows,
        "by_status": dict(totals.by_status),
        "calls": totals.calls,
        "credits": str(totals.credits),
        "billed_credits": str(totals.billed_credits),
        "usd": str(totals.usd),
        "output_bytes": totals.output_bytes,
        "charged_credits": str(totals.charged_credits),
        "unresolved_credits": str(totals.unresolved_credits),
        "unresolved_calls": totals.unresolved_calls,
    }


def _read_totals(values: Mapping[str, Any]) -> Totals:
    """Reads totals; sums that an earlier version did not write are 0."""
    return Totals(
        rows=values.get("rows", 0),
        by_status=values.get("by_status", {}),
        calls=values.get("calls", 0),
        credits=Decimal(values.get("credits", 0)),
        billed_credits=Decimal(values.get("billed_credits", 0)),
        usd=Decimal(values.get("usd", 0)),
        output_bytes=values.get("output_bytes", 0),
        charged_credits=Decimal(values.get("charged_credits", 0)),
        unresolved_credits=Decimal(values.get("unresolved_credits", 0)),
        unresolved_calls=values.get("unresolved_calls", 0),
    )


def _shard_to_json(shard: CommittedShard) -> dict[str, Any]:
    data = {} if shard.data_sha256 is None else {"data_sha256": shard.data_sha256}
    return {
        "name": shard.name,
        "rows": shard.rows,
        "manifest_sha256": shard.manifest_sha256,
        **data,
    }


def _read_shard(values: Mapping[str, Any]) -> CommittedShard:
    return CommittedShard(
        name=values["name"],
        rows=values["rows"],
        manifest_sha256=values["manifest_sha256"],
        data_sha256=values.get("data_sha256"),
    )
