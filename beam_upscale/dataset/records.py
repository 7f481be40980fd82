"""The durable proof that an input is done: its row and its telemetry."""

import dataclasses
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from beam_upscale.dataset.manifest.json_values import json_text
from beam_upscale.dataset.manifest.row import Row, Status, row_from_json, row_to_json


@dataclasses.dataclass(frozen=True)
class Telemetry:
    """The measurements of one input, which vary from run to run.

    Attributes:
        device_seconds: time on the device, shared out evenly over a batch.
        queue_seconds: time spent waiting for the device.
        attempts: calls made, repeated ones included.
        batch_size: the largest number of tiles that shared a batch with one of this image's.
        worker: host and process.
        started_at: seconds since the epoch.
    """

    device_seconds: float
    queue_seconds: float
    attempts: int
    batch_size: int
    worker: str
    started_at: float


class Edition(NamedTuple):
    """The place of a record among the records of its input; the greatest counts.

    Attributes:
        number: one more than that of the record that its writer had found; from 0.
        hold: the number of the hold of the run that wrote it; 0 without a hold. It decides between
            a run and one that has taken the output over, if neither saw the other's record.
    """

    number: int
    hold: int


FIRST = Edition(0, 0)
"""The edition of a record that was written over the one before it, if there was one."""


class PackedImage(NamedTuple):
    """The place at which an image waits for the data shard that it is packed into.

    Attributes:
        name: the name of the file of images, below `.staging/groups`.
        offset: the position of its first byte in that file.
        size: the number of its bytes.
    """

    name: str
    offset: int
    size: int


@dataclasses.dataclass(frozen=True)
class Record:
    """A finished input that is not yet part of a committed shard.

    Attributes:
        row: its row.
        telemetry: its measurements; None if there are none.
        edition: its place among the records of the input.
        packed: the place of its image among those of its group; None if the image has a file of
            its own, or if there is none.
    """

    row: Row
    telemetry: Telemetry | None
    edition: Edition = dataclasses.field(default=FIRST, compare=False)
    packed: PackedImage | None = dataclasses.field(default=None, compare=False)

    def to_json(self) -> bytes:
        """Returns the record as UTF-8 JSON in one line, exact to the last digit."""
        # vars(): `dataclasses.asdict` takes ten times as long, and copies what is copied here.
        telemetry = None if self.telemetry is None else vars(self.telemetry)
        values: dict[str, Any] = {"row": row_to_json(self.row), "telemetry": telemetry}
        if self.edition != FIRST:
            values["edition"] = self.edition
        if self.packed is not None:
            values["packed"] = self.packed
        return json_text(values).encode()


def record_from_json(data: bytes) -> Record:
    """Parses a record that `Record.to_json` wrote, in this version or one before."""
    # As text: of bytes, the encoding would be looked for.
    values = json.loads(data.decode())
    telemetry, packed = values["telemetry"], values.get("packed")
    return Record(
        row=row_from_json(values["row"]),
        telemetry=None if telemetry is None else Telemetry(**telemetry),
        edition=Edition(*values.get("edition", FIRST)),
        packed=None if packed is None else PackedImage(*packed),
    )


def latest(records: Iterable[Record]) -> Record | None:
    """Chooses the record that counts among those of one input; None if there are none.

    It is the one of the greatest edition. Records of one edition are of workers that did the same
    input at the same time: an image counts before a failure to make it, as in `resume.replaced`,
    and among equals the choice does not depend on their order.
    """
    found = list(records)
    if len(found) < 2:
        return found[0] if found else None
    newest = max(each.edition for each in found)
    return max(
        (each for each in found if each.edition == newest),
        key=lambda each: (each.row.status is Status.UPSCALED, each.to_json()),
    )
