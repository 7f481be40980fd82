"""The durable proof that an input is done: its row and its telemetry."""

import dataclasses
import json

from beam_upscale.dataset.manifest.row import Row, row_from_json, row_to_json


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


@dataclasses.dataclass(frozen=True)
class Record:
    """A finished input that is not yet part of a committed shard."""

    row: Row
    telemetry: Telemetry | None

    def to_json(self) -> bytes:
        """Returns the record as UTF-8 JSON, exact to the last digit."""
        telemetry = None if self.telemetry is None else dataclasses.asdict(self.telemetry)
        return json.dumps({"row": row_to_json(self.row), "telemetry": telemetry}).encode()


def record_from_json(data: bytes) -> Record:
    """Parses a record that `Record.to_json` wrote."""
    values = json.loads(data)
    telemetry = values["telemetry"]
    return Record(
        row=row_from_json(values["row"]),
        telemetry=None if telemetry is None else Telemetry(**telemetry),
    )
