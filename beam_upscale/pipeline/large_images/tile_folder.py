"""Names and lists the files of a large image below `.staging/`, and reads the results there."""

import dataclasses
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.inference.elements import Inference
from beam_upscale.pipeline.large_images.states import LargeImageTile, TileResult
from beam_upscale.pipeline.large_images.tile_files import TileFile
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris


@dataclasses.dataclass(frozen=True)
class TileFolder:
    """The folder of one large image below `.staging/`, and the URIs of its tiles' files."""

    root: str

    @classmethod
    def of(cls, scratch: DatasetFolder, key: str) -> "TileFolder":
        """Returns the folder of the image with this key; earlier versions named it so."""
        return cls(uris.join(scratch.staging, "giants", key))

    @property
    def failed(self) -> str:
        """The URI of the file that exists once a tile has failed."""
        return uris.join(self.root, "failed")

    def tile(self, index: int) -> str:
        """Returns the URI of a tile's input pixels."""
        return uris.join(self.root, "tiles", f"{index:06d}")

    def result(self, index: int) -> str:
        """Returns the URI of a tile's result."""
        return uris.join(self.root, "results", f"{index:06d}")

    def failure(self, index: int) -> str:
        """Returns the URI of a tile's failure."""
        return uris.join(self.root, "failures", f"{index:06d}")

    def forget_failures(self, scratch: DatasetFolder) -> None:
        """Deletes the failures, so that the tiles are tried again."""
        scratch.delete(self.failed)
        for index in _numbers(uris.join(self.root, "failures")):
            scratch.delete(self.failure(index))

    def done(self) -> set[int]:
        """Lists the indices of the tiles whose results are persisted."""
        return _numbers(uris.join(self.root, "results"))

    def cut(self) -> set[int]:
        """Lists the indices of the tiles whose input pixels are written."""
        return _numbers(uris.join(self.root, "tiles"))


def _numbers(folder: str) -> set[int]:
    return {int(entry.name) for entry in files.list_below(folder) if entry.name.isdigit()}


def done_before(tile: LargeImageTile, folder: TileFolder) -> TileResult | None:
    """Reads the persisted result of an earlier attempt at a tile; None if there is none."""
    uri = folder.result(tile.index)
    if not files.exists(uri):
        return None
    return TileResult(tile.index, inference_of(TileFile(uri).values))


def values_of(inference: Inference) -> dict[str, Any]:
    """Converts an inference to plain JSON, without its cores, its error and its stop."""
    return {
        "notes": list(inference.notes),
        "device_seconds": inference.device_seconds,
        "queue_seconds": inference.queue_seconds,
        "batch_size": inference.batch_size,
        "request_ids": list(inference.request_ids),
        "billed_credits": str(inference.billed_credits),
        "attempts": inference.attempts,
    }


def inference_of(values: Mapping[str, Any]) -> Inference:
    """Creates an inference from the values that `values_of` gave."""
    return Inference(
        **{
            **values,
            "notes": tuple(values["notes"]),
            "request_ids": tuple(values["request_ids"]),
            "billed_credits": Decimal(values["billed_credits"]),
        }
    )
