"""Results that are persisted one after the other."""

import dataclasses
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from input_states import known
from persisted_results import paid, result

from beam_upscale.dataset.book_sums import read_sums
from beam_upscale.dataset.books import RunBooks
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.pipeline.commit.persist import Persist, output_uri, persist, shard_of
from beam_upscale.pipeline.run_state.progress import progress_file
from beam_upscale.sources.inputs.source_image import SourceImage


@pytest.mark.parametrize(
    ("layout", "expected"),
    [
        (Layout.FILES, "images/a/b.png"),
        (Layout.PARQUET, "data/000007.parquet"),
        (Layout.WEBDATASET, "data/000007.tar"),
    ],
)
def test_where_images_stand(layout: Layout, expected: str) -> None:
    upscaled = result("a/b", b"image")
    assert upscaled.record is not None

    assert output_uri(upscaled.source, upscaled.record.row, layout, 7) == expected


def test_results_without_a_shard_are_spread_evenly_and_always_alike() -> None:
    sources = [SourceImage(input_id=str(number)) for number in range(1000)]

    shards = [shard_of(source) for source in sources]

    assert shards == [shard_of(source) for source in sources]
    assert set(shards) == set(range(16))


@pytest.mark.parametrize("layout", list(Layout))
def test_persisted_result_is_durable(dataset: DatasetFolder, layout: Layout) -> None:
    record = persist(result("a", b"image"), dataset, layout)

    assert dataset.read_record("/in/a.jpg") == record
    path = (
        dataset.resolve("images/a.png")
        if layout is Layout.FILES
        else dataset.waiting_image_uri("/in/a.jpg")
    )
    assert Path(path).read_bytes() == b"image"


@pytest.mark.parametrize("is_taken_up", [False, True])
def test_result_that_is_taken_up_is_no_progress_of_this_run(
    is_taken_up: bool, dataset: DatasetFolder, tmp_path: Path
) -> None:
    waiting = tmp_path / "waiting"
    waiting.write_bytes(b"image")
    upscaled = dataclasses.replace(
        result("a", b"image"), data=None, file=str(waiting), is_taken_up=is_taken_up
    )
    step = Persist(dataset, Layout.FILES, RunJson(layout="files"), "run", None, None)

    step.start_bundle()
    list(step.process(upscaled))
    list(step.finish_bundle())

    done = progress_file(dataset, "run").total
    assert (done.images, done.earlier) == (1, int(is_taken_up))
    assert Path(dataset.resolve("images/a.png")).read_bytes() == b"image"


def test_failure_that_replaces_a_persisted_image_removes_it(dataset: DatasetFolder) -> None:
    persist(result("a", b"image"), dataset, Layout.FILES)

    persist(result("a", None), dataset, Layout.FILES)

    assert not Path(dataset.resolve("images/a.png")).exists()


def test_what_is_booked_under_another_name_of_the_output_is_not_entered_again(
    dataset: DatasetFolder, tmp_path: Path
) -> None:
    Path(dataset.root).mkdir()
    (tmp_path / "link").symlink_to(dataset.root)
    (tmp_path / "other").mkdir()

    def billed_in(root: Path | str) -> Decimal:
        upscaled = paid("1")
        run = RunBooks.begin(DatasetFolder(str(root)))
        source = known(upscaled.source, books=run)
        persist(dataclasses.replace(upscaled, source=source), dataset, Layout.FILES)
        return read_sums(dataset).charged

    assert [billed_in(root) for root in (dataset.root, tmp_path / "link")] == [0, 0]
    assert billed_in(tmp_path / "other") == Decimal("0.2")


@pytest.mark.parametrize(
    "columns",
    [{"source_sha256": "t"}, {"prompt": "a cat"}, {"seed": 7}],
    ids=["content", "prompt", "seed"],
)
def test_an_image_of_what_is_asked_no_more_goes(
    dataset: DatasetFolder, columns: dict[str, Any]
) -> None:
    persist(paid("1"), dataset, Layout.FILES)

    record = persist(paid("2", None, **columns), dataset, Layout.FILES)

    assert (record.row.status, record.row.billed_credits) == (Status.FAILED, Decimal("0.4"))
    assert not Path(dataset.resolve("images/a.png")).exists()


def test_a_row_whose_image_is_lost_is_not_kept(dataset: DatasetFolder) -> None:
    persist(paid("1"), dataset, Layout.FILES)
    Path(dataset.resolve("images/a.png")).unlink()

    assert persist(paid("2", None), dataset, Layout.FILES).row.status is Status.FAILED
