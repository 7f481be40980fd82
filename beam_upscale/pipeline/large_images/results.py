"""Persists encoded images in a scratch folder, so that results carry references and no pixels."""

import dataclasses
from collections.abc import Iterator

import apache_beam as beam

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row
from beam_upscale.dataset.output_hold import ShownBundle
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.sources.inputs.source_image import SourceImage


def place_in_scratch(_: SourceImage, row: Row, scratch: DatasetFolder) -> str:
    """Returns the URI at which a result's image waits in a scratch folder."""
    return scratch.waiting_image_uri(row.input_id)


def persisted_in_scratch(upscaled: UpscaledImage, scratch: DatasetFolder) -> UpscaledImage:
    """Returns a result whose image, if it has one, is in a file and no longer in memory."""
    if upscaled.data is None:
        return upscaled
    assert upscaled.record is not None
    uri = place_in_scratch(upscaled.source, upscaled.record.row, scratch)
    scratch.write(uri, upscaled.data)
    return dataclasses.replace(upscaled, data=None, file=uri)


class PersistInScratch(beam.DoFn):
    """The DoFn that turns results with pixels into references to files of a scratch folder."""

    def __init__(self, scratch: DatasetFolder) -> None:
        self._scratch = scratch
        self._shown = ShownBundle(scratch)

    def start_bundle(self) -> None:
        """Shows that the run is alive."""
        self._shown.begin()

    def process(self, upscaled: UpscaledImage) -> Iterator[UpscaledImage]:
        """Yields the result with a reference to its image."""
        yield persisted_in_scratch(upscaled, self._scratch)

    def finish_bundle(self) -> None:
        """Stops showing that the run is alive."""
        self._shown.end()

    def teardown(self) -> None:
        """Cleans up after a bundle that failed."""
        self._shown.end()
