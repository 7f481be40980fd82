"""Persists results in a scratch folder, so that they carry references and no pixels.

    .staging/results/<k>/<key>         the encoded image of a result
    .staging/results/<k>/<key>.json    its row and telemetry, written after the image

The key is a hash of the input's id, its bytes and the settings; <k> is its first two digits. So a
pipeline takes up the results that an interrupted one has left, and does not pay for them again, but
never takes up the result of another file or of other settings.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterator

import apache_beam as beam

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.output_hold import ShownBundle
from beam_upscale.dataset.records import Record, record_from_json
from beam_upscale.pipeline.one_image.states import ResultDraft, UpscaledImage
from beam_upscale.pipeline.run_state.stop import stop_after_error
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.settings_json import settings_to_json
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.storage import files
from beam_upscale.storage.uris import uris


@dataclasses.dataclass(frozen=True)
class ScratchResults:
    """The results that wait in a scratch folder.

    Attributes:
        scratch: the scratch folder.
        settings_sha256: the SHA-256 of the settings on which results depend.
    """

    scratch: DatasetFolder
    settings_sha256: str

    @classmethod
    def of(cls, scratch: DatasetFolder, settings: PinnedSettings) -> "ScratchResults":
        """Returns the results of these settings in a scratch folder."""
        text = json.dumps(settings_to_json(settings), sort_keys=True, default=str)
        return cls(scratch, hashlib.sha256(text.encode()).hexdigest())

    def uri_of(self, draft: ResultDraft, _: OutputFormat, scratch: DatasetFolder) -> str:
        """Returns the URI at which the image of a result will wait."""
        return self._uri(draft.source.input_id, draft.source_sha256, scratch)

    def _uri(self, input_id: str, source_sha256: str | None, scratch: DatasetFolder) -> str:
        text = json.dumps([input_id, source_sha256, self.settings_sha256])
        key = hashlib.sha256(text.encode()).hexdigest()
        return uris.join(scratch.staging, "results", key[:2], key)

    def persist(self, upscaled: UpscaledImage) -> UpscaledImage:
        """Returns a result whose image, if it has one, is in a file and no longer in memory.

        Raises:
            OSError: the scratch folder cannot be written.
        """
        if upscaled.data is None:
            return upscaled
        assert upscaled.record is not None
        row = upscaled.record.row
        uri = self._uri(row.input_id, row.source_sha256, self.scratch)
        self.scratch.write(uri, upscaled.data)
        self.scratch.write(_record_uri(uri), upscaled.record.to_json())
        return dataclasses.replace(upscaled, data=None, file=uri)

    def find(self, draft: ResultDraft) -> UpscaledImage | None:
        """Finds the result that `persist` left of an input; None if there is none.

        Args:
            draft: what is known of the input, with the hash of its bytes.
        """
        source = draft.source
        uri = self._uri(source.input_id, draft.source_sha256, self.scratch)
        if not files.exists(_record_uri(uri)):
            return None
        found = record_from_json(files.read(_record_uri(uri)))
        # The input's columns and its URI may have changed since, but nothing that the image
        # depends on.
        row = found.row.changed(source_uri=source.source_uri, input=source.columns)
        return UpscaledImage(source, Record(row, found.telemetry), file=uri, is_taken_up=True)


def _record_uri(image_uri: str) -> str:
    return f"{image_uri}.json"


class PersistInScratch(beam.DoFn):
    """The DoFn that turns results with pixels into references to files of a scratch folder."""

    def __init__(self, results: ScratchResults) -> None:
        self._results = results
        self._shown = ShownBundle(results.scratch)

    def start_bundle(self) -> None:
        """Shows that the run is alive."""
        self._shown.begin()

    def process(self, upscaled: UpscaledImage) -> Iterator[UpscaledImage]:
        """Yields the result with a reference to its image; stops the tiles if the run must stop."""
        stop_after_error(self._results.scratch, upscaled.stop)
        yield self._results.persist(upscaled)

    def finish_bundle(self) -> None:
        """Stops showing that the run is alive."""
        self._shown.end()

    def teardown(self) -> None:
        """Cleans up after a bundle that failed."""
        self._shown.end()
