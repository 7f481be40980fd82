import struct
import zlib
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from PIL import Image
from places import SAMPLES

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.inference.elements import TiledImage
from beam_upscale.pipeline.budget import Claim, admission, order
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.preview import (
    PreviewImages,
    PreviewRow,
    StatusTotals,
    WritePreview,
    by_status,
    preview,
    read_preview,
)
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.chain import Rules
from beam_upscale.planning.engines import get_engine
from beam_upscale.planning.plan_options import Oversize, PlanOptions
from beam_upscale.sources.discovery import list_images
from beam_upscale.sources.inputs.found_inputs import Inputs
from beam_upscale.sources.inputs.source_image import SourceImage

ENGINE = get_engine("esrgan-v1-x2plus")
RULES = Rules((ENGINE,))


def image_of(picture: Image.Image, tmp_path: Path, name: str) -> SourceImage:
    picture.save(tmp_path / name)
    (found,) = list_images(str(tmp_path / name)).images
    return found


def plan(
    images: Iterable[SourceImage],
    rules: Rules,
    folder: Path,
    max_credits: Decimal | None = None,
) -> list[PreviewRow]:
    """The plan of inputs of any kind."""
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        planned = pipeline | beam.Create(list(images)) | PreviewImages(rules, max_credits)
        _ = planned | WritePreview(str(folder))
    return list(read_preview(str(folder)))


def png_header(width: int, height: int) -> bytes:
    """The beginning of a PNG of this size."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n\0\0\0\r" + header + struct.pack(">I", zlib.crc32(header))


def test_every_input_is_planned_in_order(
    tmp_path: Path, photograph: Callable[..., Image.Image]
) -> None:
    small = image_of(photograph(0, 40, 30), tmp_path, "small.png")
    large = image_of(Image.new("L", (1025, 1024)), tmp_path, "large.png")
    broken = SourceImage("broken", data=b"")
    claim = SourceImage("claim", data=png_header(2**31, 2**32 - 1))

    planned = plan([small, broken, claim, large], RULES, tmp_path / "plan")

    assert [each.input_id for each in planned] == [
        *(large.input_id, small.input_id, "broken", "claim")
    ]
    # A column of a plan holds no such side; the message says it.
    assert (planned[3].error_code, planned[3].width) == (ErrorCode.TOO_MANY_PIXELS, None)
    assert "2147483648 x 4294967295" in planned[3].message
    assert planned[0].error_code is ErrorCode.INPUT_TOO_LARGE
    assert (planned[0].status, planned[0].credits, planned[0].calls) == (Status.REJECTED, 0, 0)
    assert (planned[2].status, planned[2].error_code) == (Status.FAILED, ErrorCode.EMPTY_FILE)
    assert (planned[2].width, planned[2].message != "") == (None, True)
    assert planned[1] == PreviewRow(
        small.input_id,
        Status.UPSCALED,
        width=40,
        height=30,
        output_width=80,
        output_height=60,
        calls=1,
        credits=Decimal("0.2"),
        known_from="header",
    )
    assert planned[2].known_from is None


def test_tiles_and_skips(tmp_path: Path) -> None:
    large = image_of(Image.new("L", (1025, 1024)), tmp_path, "large.png")

    tiles = Rules((ENGINE,), PlanOptions(oversize=Oversize.TILE))
    (tiled,) = plan([large], tiles, tmp_path / "tiled")
    (skipped,) = plan([large], Rules((ENGINE,), PlanOptions(min_side=1000)), tmp_path / "skipped")

    assert (tiled.status, tiled.calls, tiled.credits) == (
        Status.UPSCALED,
        tiled.calls,
        tiled.calls * Decimal("0.2"),
    )
    assert tiled.calls > 1
    assert (skipped.status, skipped.error_code, skipped.credits) == (Status.SKIPPED, None, 0)
    assert "--min-side" in skipped.message


def test_a_budget_leaves_out_what_it_leaves_out_in_a_run(
    tmp_path: Path, photograph: Callable[..., Image.Image]
) -> None:
    images = [image_of(photograph(number), tmp_path, f"{number}.png") for number in range(6)]
    prices = [Claim(order(image.input_id), Decimal("0.2"), spent=False) for image in images]
    reached = admission(prices, Decimal("0.7")).last

    planned = plan(images, RULES, tmp_path / "plan", Decimal("0.7"))

    for image, found in zip(images, planned, strict=True):
        within = order(image.input_id) <= reached
        assert found.status is (Status.UPSCALED if within else Status.OVER_BUDGET)
        assert found.credits == (Decimal("0.2") if within else 0)
    assert sum(found.status is Status.OVER_BUDGET for found in planned) == 3


def test_sums_by_status() -> None:
    planned = [
        PreviewRow(str(number), Status.UPSCALED, calls=2, credits=Decimal("0.4"))
        for number in range(1000)
    ]

    sums = by_status([*planned, PreviewRow("x", Status.FAILED)])

    assert sums == {
        Status.UPSCALED: StatusTotals(1000, 2000, Decimal("400.0"), Decimal("4.000")),
        Status.FAILED: StatusTotals(1, 0, Decimal(0), Decimal(0)),
    }
    assert by_status([]) == {}


@pytest.mark.parametrize(
    "options",
    [{}, {"min_side": 600}, {"oversize": "tile"}, {"oversize": "shrink"}, {"long_side": 300}],
)
def test_the_preview_says_of_the_samples_what_the_pipeline_does(
    tiny_weights: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    settings = UpscaleSettings.of(
        ENGINE.name, weights=str(tiny_weights), device="cpu", precision="fp32", **options
    ).pin()
    images = list_images(str(SAMPLES)).images

    preview(images, settings.rules, None, str(tmp_path))

    for image, found in zip(images, read_preview(str(tmp_path)), strict=True):
        prepared = prepare(image, settings, shared_pool())
        row = _row(prepared)
        if image.name == "photos/cut-in-half.jpg":
            # Its header is whole: what the pixels hide shows only in a run.
            assert (found.status, row.status) == (Status.UPSCALED, Status.FAILED)
            continue
        assert (found.status, found.error_code) == (row.status, row.error_code), image.name
        assert (found.width, found.height) == (row.input_width, row.input_height)
        priced = prepared.context.plan if isinstance(prepared, TiledImage) else row
        assert (found.calls, found.credits) == (priced.calls, priced.credits)


def test_a_plan_is_not_mixed_with_another(tmp_path: Path) -> None:
    inputs, folder = Inputs([SourceImage("a", uri=str(tmp_path / "a.png"))]), str(tmp_path / "plan")
    preview(inputs, RULES, None, folder)
    before = list(read_preview(folder))

    with pytest.raises(SettingsError) as raised:
        preview(inputs, RULES, None, folder)

    assert raised.value.code is ErrorCode.OUTPUT_TAKEN
    assert list(read_preview(folder)) == before
    assert [path.name for path in Path(folder).iterdir()] == ["plan"]


def _row(prepared: UpscaledImage | TiledImage) -> Row:
    if isinstance(prepared, TiledImage):
        record: Record = prepared.context.draft.record(Status.UPSCALED)
        return record.row
    assert prepared.record is not None
    return prepared.record.row


def test_a_plan_does_not_take_the_place_of_a_runs_work_in_progress(tmp_path: Path) -> None:
    inputs, output = Inputs([SourceImage("a", uri=str(tmp_path / "a.png"))]), tmp_path / "out"
    dataset = DatasetFolder(str(output))
    dataset.write_json(dataset.run_json, {"complete": False})
    dataset.write(dataset.record_uri("a"), b"paid")

    with pytest.raises(SettingsError, match="work in progress") as raised:
        preview(inputs, RULES, None, str(output))

    assert raised.value.code is ErrorCode.OUTPUT_TAKEN
    assert Path(dataset.record_uri("a")).read_bytes() == b"paid"
