"""Reading inputs as transforms."""

import os
from pathlib import Path

import apache_beam as beam
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from earlier_runs import commit, make, upscaled
from input_states import earlier_record

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.pipeline.read import ListingRequest, ReadImages
from beam_upscale.pipeline.run_state.resume import assign_shards
from beam_upscale.sources.discovery import list_images
from beam_upscale.storage import files


def test_the_pipeline_lists_what_list_images_does(inputs: Path, dataset: DatasetFolder) -> None:
    make(inputs, "b.png", "a.png", "line\nbreak.png", "notes.txt")
    files.write(os.fsdecode(os.fsencode(inputs) + b"/\xff.png"), b"")
    expected = [image.input_id for image in list_images(str(inputs)).images]

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        ids = pipeline | ReadImages(str(inputs)) | beam.Map(lambda image: image.input_id)
        assert_that(ids, equal_to(expected))


def test_the_pipeline_marks_what_is_done(inputs: Path, dataset: DatasetFolder) -> None:
    make(inputs, "a.png", "b.png", "c.png")
    listed = list(assign_shards(list_images(str(inputs)).images, dataset, 2))
    commit(dataset, 0, [upscaled(each.source) for each in listed[:2]])

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        found = (
            pipeline
            | ReadImages(str(inputs), output=dataset.root, shard_rows=2)
            | beam.Map(lambda image: (image.name, image.shard, earlier_record(image) is not None))
        )
        assert_that(found, equal_to([("a.png", 0, True), ("b.png", 0, True), ("c.png", 1, False)]))


def test_an_output_below_the_input_is_not_read_by_the_pipeline(inputs: Path) -> None:
    make(inputs, "a.png", "out/images/a.png")

    images = ListingRequest(str(inputs), dataset=DatasetFolder(f"{inputs}/out")).listing().images

    assert [image.name for image in images] == ["a.png"]
