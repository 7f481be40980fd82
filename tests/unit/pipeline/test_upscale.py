import dataclasses
import errno
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar

import apache_beam as beam
import numpy as np
import pytest
from apache_beam.internal import cloudpickle_pickler
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from apache_beam.transforms.window import FixedWindows, GlobalWindow, TimestampedValue
from apache_beam.utils.timestamp import Timestamp
from input_states import committed, earlier_record, known
from PIL import Image, ImageCms

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record
from beam_upscale.errors import FULL_DISK, BrokenProcessError, ErrorCode, ImageError, SettingsError
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.images.reading import pixels as reading_pixels
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.inference.elements import METRICS, Inference, Tile, TiledImage
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork
from beam_upscale.pipeline.one_image import prepare as one_image_prepare
from beam_upscale.pipeline.one_image.finish import finish
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.one_image.tiles import element
from beam_upscale.pipeline.run_state.input_state import (
    Allowance,
    EarlierResult,
    ListingEntry,
    state_of,
)
from beam_upscale.pipeline.run_state.resume import Asked, still_holds
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.pipeline.upscale import Upscale, _Finish
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.sources.inputs.source_image import SourceImage, source_image

ENGINE = "esrgan-v1-x2plus"
LATENT = "stable-diffusion-x4-latent-upscaler"
ORIENTATION, TURNED_LEFT = 0x0112, 6


@pytest.fixture
def pin(tiny_weights: Path) -> Callable[..., PinnedSettings]:
    def pin_settings(**options: Any) -> PinnedSettings:
        quick = {"weights": str(tiny_weights), "device": "cpu", "precision": "fp32", "threads": 1}
        return UpscaleSettings.of(ENGINE, **{**quick, **options}).pin()

    return pin_settings


@pytest.fixture
def settings(pin: Callable[..., PinnedSettings]) -> PinnedSettings:
    return pin()


def encoded(picture: Image.Image, format_: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format_, **options)
    return buffer.getvalue()


def source(data: bytes, **fields: Any) -> SourceImage:
    return SourceImage("gs://bucket/a.png", data=data, name="a.png", output_name="a", **fields)


def double(tiled: TiledImage) -> Inference:
    """What a network that repeats every pixel would make of an image."""

    def core(tile: Tile) -> np.ndarray:
        box = tile.core
        kept = tile.pixels[box.top : box.top + box.height, box.left : box.left + box.width]
        return kept.repeat(2, axis=0).repeat(2, axis=1)

    return Inference([core(tile) for tile in tiled.tiles], batch_size=1)


def prepared(source: SourceImage, settings: PinnedSettings) -> TiledImage:
    return element(prepare(source, settings, shared_pool()))


def upscale(source: SourceImage, settings: PinnedSettings) -> UpscaledImage:
    tiled = prepared(source, settings)
    return finish(tiled.context, double(tiled), settings)


def row_of(upscaled: UpscaledImage) -> Row:
    assert upscaled.record is not None
    return upscaled.record.row


def pixels_of(upscaled: UpscaledImage) -> np.ndarray:
    assert upscaled.data is not None
    return np.asarray(Image.open(io.BytesIO(upscaled.data)))


# An image that is upscaled


def test_a_photograph(settings: PinnedSettings, photograph: Callable[..., Image.Image]) -> None:
    picture = photograph(0, 40, 30)
    data = encoded(picture)

    result = upscale(source(data, columns={"label": 3}), settings)

    assert np.array_equal(pixels_of(result), np.asarray(picture).repeat(2, 0).repeat(2, 1))
    assert result.data is not None
    assert result.source.data is None
    assert row_of(result) == Row(
        input_id="gs://bucket/a.png",
        source_uri="gs://bucket/a.png",
        status=Status.UPSCALED,
        source_sha256=hashlib.sha256(data).hexdigest(),
        engine=ENGINE,
        backend="local",
        model=settings.stages[0].model.name,
        weights_sha256=settings.stages[0].model.weights_sha256,
        device_type="cpu",
        precision="fp32",
        network_backend="openvino",
        halo=96,
        input_width=40,
        input_height=30,
        input_format="png",
        input_mode="RGB",
        output_width=80,
        output_height=60,
        output_format="png",
        output_bytes=len(result.data),
        output_sha256=hashlib.sha256(result.data).hexdigest(),
        calls=1,
        credits=Decimal("0.2"),
        billed_credits=Decimal(0),
        usd=Decimal("0.002"),
        input={"label": 3},
    )


def test_gray_stays_gray(settings: PinnedSettings, photograph: Callable[..., Image.Image]) -> None:
    picture = photograph(mode="L")

    result = upscale(source(encoded(picture)), settings)

    assert np.array_equal(pixels_of(result), np.asarray(picture).repeat(2, 0).repeat(2, 1))
    assert row_of(result).input_mode == "L"


def test_alpha_is_upscaled_and_kept_without_a_dark_fringe(settings: PinnedSettings) -> None:
    pixels = np.zeros((20, 20, 4), np.uint8)  # Black below full transparency.
    pixels[:, 10:] = (200, 180, 160, 255)

    tiled = prepared(source(encoded(Image.fromarray(pixels))), settings)
    color, alpha = tiled.tiles
    result = pixels_of(finish(tiled.context, double(tiled), settings))

    assert (color.pixels == (200, 180, 160)).all()  # What the network sees has no black.
    assert np.array_equal(alpha.pixels[:, :, 0], pixels[:, :, 3])
    assert np.array_equal(result[..., 3], pixels[..., 3].repeat(2, 0).repeat(2, 1))
    assert (result[..., :3] == (200, 180, 160)).all()


def test_sixteen_bits_stay_sixteen_bits(settings: PinnedSettings) -> None:
    deep = np.random.default_rng(0).integers(0, 65_536, (10, 12, 3), np.uint16)

    result = upscale(source(encoding.encode(deep).data), settings)

    assert result.data is not None
    decoded = reading_pixels.decode(result.data, max_pixels=10**6)
    assert np.array_equal(decoded.color, deep.repeat(2, 0).repeat(2, 1))
    assert row_of(result).input_mode == "RGB;16"
    assert row_of(result).notes == ()


def test_sixteen_bits_are_reduced_where_the_format_has_eight(
    pin: Callable[..., PinnedSettings],
) -> None:
    deep = np.random.default_rng(0).integers(0, 65_536, (10, 12, 3), np.uint16)

    result = upscale(source(encoding.encode(deep).data), pin(output_format="jpeg"))

    assert row_of(result).notes == ("reduced to 8 bits",)
    assert row_of(result).output_format == "jpeg"


def test_a_picture_stored_sideways_is_turned_upright(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    upright = photograph(0, 40, 30)
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED_LEFT
    sideways = encoded(upright.transpose(Image.Transpose.ROTATE_90), exif=exif)

    result = upscale(source(sideways), settings)

    assert np.array_equal(pixels_of(result), np.asarray(upright).repeat(2, 0).repeat(2, 1))
    assert (row_of(result).input_width, row_of(result).input_height) == (40, 30)
    assert result.data is not None
    assert Image.open(io.BytesIO(result.data)).getexif()[ORIENTATION] == 1


def test_the_color_profile_is_carried_over(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    result = upscale(source(encoded(photograph(), "JPEG", icc_profile=profile)), settings)

    assert result.data is not None
    assert Image.open(io.BytesIO(result.data)).info["icc_profile"] == profile


def test_a_damaged_profile_is_noted_before_the_network_runs(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    data = encoded(photograph(), "JPEG", icc_profile=b"no profile")

    tiled = prepared(source(data), settings)

    assert tiled.context.draft.row.notes == ("unusable ICC profile dropped",)
    assert row_of(finish(tiled.context, double(tiled), settings)).status is Status.UPSCALED


def test_a_result_is_stripped_of_all_but_the_color_profile(
    pin: Callable[..., PinnedSettings], photograph: Callable[..., Image.Image]
) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    exif = Image.Exif()
    exif[271] = "Maker"
    exif.get_ifd(0x8825)[1] = "N"
    data = encoded(photograph(), "JPEG", icc_profile=profile, exif=exif, xmp=b"<where/>")

    kept, stripped = (upscale(source(data), pin(metadata=rule)) for rule in ("keep", "strip"))

    assert kept.data is not None
    assert stripped.data is not None
    assert all(each in kept.data for each in (b"Maker", b"<where/>", b"iCCP"))
    assert set(Image.open(io.BytesIO(stripped.data)).info) == {"icc_profile"}


def test_a_requested_width_is_reduced_from_the_engines_result(
    pin: Callable[..., PinnedSettings], photograph: Callable[..., Image.Image]
) -> None:
    picture = photograph(0, 40, 30)

    result = upscale(source(encoded(picture)), pin(width=60))

    whole = np.asarray(picture).repeat(2, 0).repeat(2, 1)
    expected = Image.fromarray(whole).resize((60, 45), Image.Resampling.LANCZOS)
    assert np.array_equal(pixels_of(result), np.asarray(expected))
    assert (row_of(result).output_width, row_of(result).output_height) == (60, 45)


def oversized() -> np.ndarray:
    """A little more than 1024 x 1024."""
    return np.random.default_rng(0).integers(0, 256, (1030, 1100), np.uint8)


def test_an_oversized_picture_is_tiled_and_stitched(pin: Callable[..., PinnedSettings]) -> None:
    pixels = oversized()
    settings = pin(oversize="tile", halo=24)

    tiled = prepared(source(encoded(Image.fromarray(pixels))), settings)
    tiles = list(tiled.tiles)
    finishing = _Finish(settings)
    finishing.start_bundle()
    (finished,) = finishing.process(
        PredictionResult(tiled, double(tiled)), Timestamp(0), GlobalWindow()
    )
    result = finished.value

    row = row_of(result)
    assert len(tiles) == row.calls > 1
    assert all(t.pixels.shape[0] * t.pixels.shape[1] <= 1024 * 1024 for t in tiles)
    # Whoever still holds the element holds no pixels.
    assert not tiled.tiles
    assert np.array_equal(pixels_of(result), pixels.repeat(2, 0).repeat(2, 1))
    assert row.credits == row.calls * Decimal("0.2")
    assert row.notes == (f"upscaled in {row.calls} pieces",)
    assert row.halo == 24


def test_an_oversized_picture_is_shrunk(pin: Callable[..., PinnedSettings]) -> None:
    data = encoded(Image.fromarray(oversized()))
    settings = pin(oversize="shrink")

    tiled = prepared(source(data), settings)
    height, width = tiled.tiles[0].pixels.shape[:2]
    row = row_of(finish(tiled.context, double(tiled), settings))

    assert 1040 * 1024 > height * width > 1020 * 1020
    assert (row.output_width, row.output_height) == (2 * width, 2 * height)
    assert row.notes == (f"shrunk to {width} x {height} before upscaling",)
    assert row.calls == 1


# An input that is not


def outcome(source: SourceImage, settings: PinnedSettings) -> Row:
    """The row of an input for which there is nothing to do for the network."""
    tiled = prepared(source, settings)
    assert not tiled.tiles
    result = finish(tiled.context, Inference(), settings)
    assert result.data is None
    row = row_of(result)
    assert (row.credits, row.usd, row.calls, row.output_uri) == (0, 0, 0, None)
    return row


def test_bad_bytes_are_a_row_with_a_code(settings: PinnedSettings) -> None:
    row = outcome(source(b"a text file"), settings)

    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.NOT_AN_IMAGE)
    assert row.error_message
    assert row.source_sha256 == hashlib.sha256(b"a text file").hexdigest()


def test_half_a_picture_is_a_row_with_what_its_header_says(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    data = encoded(photograph(0, 400, 300), "JPEG")

    row = outcome(source(data[: len(data) // 2]), settings)

    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.TRUNCATED)
    assert (row.input_width, row.input_height, row.input_format) == (400, 300, "jpeg")


def test_a_missing_file_is_a_row(settings: PinnedSettings) -> None:
    row = outcome(source_image("/no/such/file.png"), settings)

    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.NOT_FOUND)
    assert row.source_sha256 is None


def test_a_file_too_large_is_not_read(pin: Callable[..., PinnedSettings], tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"x" * 101)

    row = outcome(source_image(str(tmp_path / "a.png")), pin(max_input_bytes=100))

    assert (row.status, row.error_code) == (Status.REJECTED, ErrorCode.FILE_TOO_LARGE)
    assert "101 bytes; at most 100" in (row.error_message or "")
    assert row.source_sha256 is None


def test_an_oversized_picture_is_rejected(settings: PinnedSettings) -> None:
    row = outcome(source(encoded(Image.fromarray(oversized()))), settings)

    assert (row.status, row.error_code) == (Status.REJECTED, ErrorCode.INPUT_TOO_LARGE)


def test_a_picture_that_is_large_enough_is_skipped(
    pin: Callable[..., PinnedSettings], photograph: Callable[..., Image.Image]
) -> None:
    row = outcome(source(encoded(photograph())), pin(min_side=30))

    assert (row.status, row.error_code) == (Status.SKIPPED, None)
    assert "--min-side" in row.notes[0]


def test_an_animation_is_rejected_where_that_is_asked_for(
    pin: Callable[..., PinnedSettings], photograph: Callable[..., Image.Image]
) -> None:
    frames = [photograph(1), photograph(2)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])

    row = outcome(source(data), pin(animated="reject"))

    assert (row.status, row.error_code) == (Status.REJECTED, ErrorCode.ANIMATED)
    assert upscale(source(data), pin()).data is not None


def test_what_the_budget_does_not_reach_is_a_row(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    data = encoded(photograph())

    row = outcome(
        known(source(data), allowance=Allowance(Decimal(1), is_within_budget=False)), settings
    )

    assert (row.status, row.error_code) == (Status.OVER_BUDGET, ErrorCode.OVER_BUDGET)
    assert "0.2 credits" in (row.error_message or "")


def test_what_costs_more_than_when_it_was_priced_is_over_the_budget(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    data = encoded(photograph())

    unreadable_then = outcome(known(source(data), allowance=Allowance(Decimal(0))), settings)
    as_then = upscale(known(source(data), allowance=Allowance(Decimal("0.2"))), settings)

    assert unreadable_then.error_code == ErrorCode.OVER_BUDGET
    assert as_then.data is not None


def test_what_would_cost_nothing_is_never_over_the_budget(settings: PinnedSettings) -> None:
    assert (
        outcome(
            known(source(b""), allowance=Allowance(Decimal(1), is_within_budget=False)), settings
        ).error_code
        == ErrorCode.EMPTY_FILE
    )


def test_a_postponed_input_has_no_row(settings: PinnedSettings) -> None:
    tiled = prepared(known(source(b"not looked at"), is_postponed=True), settings)

    result = finish(tiled.context, Inference(), settings)

    assert (tiled.tiles, result.record, result.data) == ((), None, None)


def test_what_was_done_before_keeps_its_record(settings: PinnedSettings) -> None:
    digest = hashlib.sha256(b"not looked at").hexdigest()
    row = Row("a", "a", Status.FAILED, source_sha256=digest, error_code="kept")
    earlier = Record(row, None)

    tiled = prepared(known(source(b"not looked at"), earlier=EarlierResult(earlier)), settings)
    result = finish(tiled.context, Inference(), settings)

    assert (tiled.tiles, result.record, result.data) == ((), earlier, None)


@pytest.mark.parametrize(
    ("before", "now", "holds"),
    [
        ({"max_input_pixels": 1000}, {"max_input_pixels": 1000}, True),
        ({"max_input_pixels": 1000}, {"max_input_pixels": 1001}, False),
        ({"max_input_pixels": 1000}, {"max_input_pixels": 10**9}, False),
        ({"max_input_pixels": 1000}, {"max_input_pixels": None}, False),
        ({"oversize": "reject"}, {"oversize": "reject"}, True),
        ({"oversize": "reject"}, {"oversize": "reject", "max_input_pixels": 1000}, False),
        ({"oversize": "reject"}, {"oversize": "tile"}, False),
        ({"oversize": "reject"}, {"oversize": "shrink"}, False),
    ],
)
def test_what_the_rules_refused_is_kept_while_they_say_the_same(
    pin: Callable[..., PinnedSettings], before: dict[str, Any], now: dict[str, Any], holds: bool
) -> None:
    image = source(encoded(Image.new("RGB", (1100, 1000))))
    earlier = Record(outcome(image, pin(**before)), None)
    refused = known(image, earlier=committed(earlier))

    tiled, anew = (prepared(each, pin(**now)) for each in (refused, image))

    found = state_of(tiled.context.source).earlier
    assert (found is not None and found.record is earlier and found.is_committed) == holds
    assert (found is None) != holds
    assert len(tiled.tiles) == (0 if holds else len(anew.tiles))


@pytest.mark.parametrize("number", sorted(FULL_DISK))
def test_full_disk_is_no_images_fault(
    number: int,
    settings: PinnedSettings,
    photograph: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fill_the_disk(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    picture = source(encoded(photograph()))
    tiled = prepared(picture, settings)
    monkeypatch.setattr(SourceImage, "read", fill_the_disk)
    monkeypatch.setattr(encoding, "encode", fill_the_disk)

    with pytest.raises(OSError, match=os.strerror(number)):
        prepared(picture, settings)
    with pytest.raises(OSError, match=os.strerror(number)):
        finish(tiled.context, double(tiled), settings)


def test_another_error_of_the_system_is_a_failed_row(
    settings: PinnedSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(SourceImage, "read", fail)

    tiled = prepared(source(b"not looked at"), settings)

    assert row_of(finish(tiled.context, Inference(), settings)).error_code == "internal_error"


@pytest.mark.parametrize("step", ["_still_stands", "_with_parameters", "_with_content", "_decoded"])
def test_mistake_while_an_input_is_prepared_is_its_row(
    step: str,
    settings: PinnedSettings,
    photograph: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> Any:
        raise KeyError("a mistake")

    picture = source(encoded(photograph()))
    earlier = Record(Row("a", "a", Status.UPSCALED), telemetry=None)
    monkeypatch.setattr(one_image_prepare, step, fail)

    tiled = prepared(
        known(picture, earlier=EarlierResult(earlier)) if step == "_still_stands" else picture,
        settings,
    )

    row = row_of(finish(tiled.context, Inference(), settings))
    assert row.error_code == "internal_error"
    assert "a mistake in beam-upscale, not in the file: KeyError" in str(row.error_message)


def test_a_result_that_no_decoder_can_read_is_no_inputs_fault(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    class Undecodable:
        def done(self) -> bool:
            return True

        def result(self) -> Inference:
            raise BrokenProcessError(ErrorCode.DECODER_UNAVAILABLE, "no more processes")

    tiled = prepared(source(encoded(photograph())), settings)
    finishing = _Finish(settings)
    finishing.start_bundle()

    (result,) = finishing.process(
        PredictionResult(tiled, Undecodable()), Timestamp(0), GlobalWindow()
    )

    assert result.value.record is None
    assert result.value.stop.code is ErrorCode.DECODER_UNAVAILABLE


def test_the_networks_error_is_the_inputs(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    tiled = prepared(source(encoded(photograph())), settings)

    result = finish(
        tiled.context, Inference(error=ImageError(ErrorCode.OUT_OF_MEMORY, "too large")), settings
    )

    row = row_of(result)
    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.OUT_OF_MEMORY)
    assert (row.error_message, row.credits, row.output_bytes) == ("too large", 0, None)
    assert (row.input_width, result.data) == (40, None)


def test_what_cannot_be_encoded_fails(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    tiled = prepared(source(encoded(photograph(0, 9000, 2))), settings)
    as_webp = dataclasses.replace(settings, encode=EncodeOptions(OutputFormat.WEBP))

    row = row_of(finish(tiled.context, double(tiled), as_webp))

    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.ENCODE_ERROR)


def test_bytes_that_a_step_puts_in_their_place_are_done_whatever_was_done_before(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    data = encoded(photograph())
    row = Row("a", "a", Status.UPSCALED, source_sha256=hashlib.sha256(data).hexdigest())
    before = known(source(data), earlier=committed(Record(row, None)))
    changed = dataclasses.replace(before, data=encoded(photograph(1)))

    kept, done = (prepared(each, settings) for each in (before, changed))

    assert (kept.tiles, len(done.tiles)) == ((), 1)
    assert state_of(done.context.source).earlier is None
    assert (done.context.source.data, state_of(done.context.source).data_sha256) == (
        None,
        hashlib.sha256(changed.data or b"").hexdigest(),
    )


def test_a_prompt_that_a_step_gives_is_asked_for_whatever_was_done_before() -> None:
    pinned = UpscaleSettings.of(LATENT, backend="grpc", endpoint="localhost:1").pin()
    picture = encoded(Image.new("RGB", (8, 8)))
    listed = source(picture, columns={"prompt": "a cat", "seed": 7})
    asked = dataclasses.asdict(Parameters(prompt="a cat", seed=7))
    row = Row("a", "a", Status.UPSCALED, source_sha256=listed.sha256(), **asked)
    before = known(
        dataclasses.replace(listed, data=None, uri="/nowhere/a.png"),
        earlier=EarlierResult(Record(row, None)),
        listed=ListingEntry("part", listed),
    )

    def outcome(**columns: Any) -> object:
        changed = dataclasses.replace(before, columns={**listed.columns, **columns})
        return earlier_record(prepared(changed, pinned).context.source)

    assert outcome() is not None
    assert outcome(label="new") is not None
    assert outcome(prompt="a dog") is None
    assert outcome(steps=51) is None


# As a transform


def test_a_function_that_names_the_package_can_be_sent_to_workers() -> None:
    names: dict[str, Any] = {}
    exec("import beam_upscale as bu\nmake = lambda text: bu.SourceImage(text)", names)

    make = cloudpickle_pickler.loads(cloudpickle_pickler.dumps(names["make"]))

    assert make("a") == SourceImage("a")


def test_upscale_is_a_drop_in_transform(
    tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    pictures = [photograph(number, 20 + number, 16) for number in range(3)]
    network = TorchNetwork.load(tiny_weights, Device.CPU, Precision.FP32, threads=1)
    expected = [network.upscale(np.asarray(picture)[np.newaxis])[0] for picture in pictures]
    rows = [
        {"key": number, "tags": ["x", None], "bytes": encoded(picture)}
        for number, picture in enumerate(pictures)
    ]
    rows.append({"key": 3, "tags": [], "bytes": b"broken"})

    def to_source(row: dict[str, Any]) -> SourceImage:
        columns = {"key": row["key"], "tags": row["tags"]}
        return SourceImage(f"row {row['key']}", data=row["bytes"], columns=columns)

    def check(results: Sequence[UpscaledImage]) -> None:
        by_key = {row_of(result).input["key"]: result for result in results}
        assert sorted(by_key) == [0, 1, 2, 3]
        for number, pixels in enumerate(expected):
            assert np.array_equal(pixels_of(by_key[number]), pixels)
            assert row_of(by_key[number]).input == {"key": number, "tags": ["x", None]}
        assert row_of(by_key[3]).error_code == ErrorCode.NOT_AN_IMAGE
        assert row_of(by_key[3]).input == {"key": 3, "tags": []}

    pipeline = beam.Pipeline(runner=FnApiRunner())
    results = (
        pipeline
        | beam.Create(rows)
        | beam.Map(to_source)
        | Upscale(ENGINE, weights=str(tiny_weights), device="cpu", precision="fp32", threads=1)
    )
    assert_that(results, check)
    metrics = pipeline.run().metrics()

    found = metrics.query(beam.metrics.MetricsFilter().with_namespace(METRICS))["counters"]
    counters = {each.key.metric.name: each.committed for each in found}
    assert (counters["images_upscaled"], counters["images_failed"]) == (3, 1)
    assert (counters["input_pixels"], counters["calls"]) == (20 * 16 + 21 * 16 + 22 * 16, 3)


def test_resource_hints_reach_the_steps_of_upscale(settings: PinnedSettings) -> None:
    pipeline = beam.Pipeline(runner=FnApiRunner())
    hinted = Upscale(settings).with_resource_hints(accelerator="type:nvidia;count:1")

    pipeline | beam.Create([source(b"")]) | "Hinted" >> hinted

    proto = pipeline.to_runner_api()
    with_hints = {
        name
        for name, environment in proto.components.environments.items()
        if any(b"nvidia" in hint for hint in environment.resource_hints.values())
    }
    steps = [
        step
        for step in proto.components.transforms.values()
        if step.unique_name.startswith("Hinted/") and step.environment_id
    ]
    assert steps
    assert {step.environment_id for step in steps} <= with_hints


def test_what_would_make_every_image_fail_is_refused_at_once() -> None:
    with pytest.raises(SettingsError) as caught:
        Upscale("no-such-engine")

    assert caught.value.code is ErrorCode.UNKNOWN_ENGINE


# Over gRPC


@pytest.fixture
def remote() -> PinnedSettings:
    """As they are pinned for a service; nothing here calls one."""
    return UpscaleSettings.of(ENGINE, backend="grpc", endpoint="localhost:1", oversize="tile").pin()


def test_alpha_is_no_call_of_its_own(
    remote: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    picture = photograph(0, 40, 30)
    picture.putalpha(Image.linear_gradient("L").resize((40, 30)))
    tiled = prepared(source(encoded(picture)), remote)
    shapes = [tile.pixels.shape for tile in tiled.tiles]

    result = finish(tiled.context, double(tiled), remote)

    assert shapes == [(30, 40, 3)]
    assert row_of(result).calls == 1
    expected = picture.getchannel("A").resize((80, 60), Image.Resampling.LANCZOS)
    assert np.array_equal(pixels_of(result)[:, :, 3], np.asarray(expected))


def test_every_call_can_be_told_from_those_of_other_inputs(remote: PinnedSettings) -> None:
    data = encoded(Image.new("L", (1500, 1000)))

    first, second = (prepared(SourceImage(name, data=data), remote) for name in ("a", "b"))

    assert len(first.tiles) > 1
    assert (first.identity, second.identity) == (("a", 0), ("b", 0))


def test_a_noise_level_that_cannot_be_sent_stands_in_a_row_that_holds(tmp_path: Path) -> None:
    pinned = UpscaleSettings.of(LATENT, backend="grpc", endpoint="localhost:1").pin()
    noisy = source(encoded(Image.new("RGB", (8, 8))), columns={"noise_level": 100})

    row = row_of(finish(prepared(noisy, pinned).context, Inference(), pinned))

    assert (row.status, row.error_code) == (Status.REJECTED, ErrorCode.INVALID_NOISE_LEVEL)
    assert row.noise_level == 100
    assert still_holds(noisy, row, DatasetFolder(str(tmp_path)), Asked(Parameters()))


def test_what_was_billed_stands_in_the_row_of_an_image_that_failed(remote: PinnedSettings) -> None:
    tiled = prepared(source(encoded(Image.new("RGB", (1500, 1000)))), remote)
    error = ImageError(ErrorCode.SERVICE_ERROR, "the service could not make it")
    inference = Inference(
        error=error, request_ids=("1", "2"), billed_credits=Decimal("0.2"), attempts=3
    )

    result = finish(tiled.context, inference, remote)

    row = row_of(result)
    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.SERVICE_ERROR)
    assert (row.request_ids, row.billed_credits, row.credits) == (("1", "2"), Decimal("0.2"), 0)
    assert result.record is not None
    assert result.record.telemetry is not None
    assert result.record.telemetry.attempts == 3


def test_what_a_service_withholds_is_filtered(remote: PinnedSettings) -> None:
    tiled = prepared(source(encoded(Image.new("RGB", (40, 30)))), remote)

    row = row_of(finish(tiled.context, Inference(error=ImageError(ErrorCode.FILTERED, "")), remote))

    assert (row.status, row.billed_credits, row.credits) == (Status.FILTERED, 0, 0)


def test_an_image_that_was_not_tried_has_no_row(remote: PinnedSettings) -> None:
    tiled = prepared(source(encoded(Image.new("RGB", (40, 30)))), remote)
    stop = SettingsError(ErrorCode.API_KEY_REFUSED, "the key expired")

    result = finish(tiled.context, Inference(stop=stop), remote)

    assert (result.record, result.data, result.stop) == (None, None, stop)


class Later:
    """An inference that ends when no other has anything to do; those that were begun last first."""

    under_way: ClassVar[list["Later"]] = []

    def __init__(self, inference: Inference) -> None:
        self._inference = inference
        self.under_way.append(self)

    def done(self) -> bool:
        return self not in self.under_way

    def wait(self, timeout: float | None = None) -> bool:
        self.under_way.pop()
        return self.done()

    def result(self) -> Inference:
        assert self.done()
        return self._inference


class StartLater(beam.DoFn):
    """Stands for RunInference with a handler whose calls go over the network."""

    def process(self, tiled: TiledImage) -> Iterator[PredictionResult]:
        yield PredictionResult(tiled, Later(double(tiled)))


def test_images_under_way_leave_with_their_own_times_and_windows(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    Later.under_way.clear()
    numbers = range(5)
    data = [encoded(photograph(number, 8 + number, 8)) for number in numbers]

    def begun(number: int) -> TimestampedValue:
        tiled = prepared(SourceImage(str(number), data=data[number]), settings)
        return TimestampedValue(tiled, 10 * number)

    def described(
        upscaled: UpscaledImage,
        timestamp: Timestamp = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> tuple[str, int, int]:
        assert upscaled.data is not None
        return upscaled.source.input_id, int(timestamp.seconds()), int(window.start.seconds())

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        results = (
            pipeline
            | beam.Create([list(numbers)])
            | beam.FlatMap(lambda those: [begun(number) for number in those])
            | beam.WindowInto(FixedWindows(10))
            | beam.Map(lambda tiled: tiled).with_output_types(TiledImage)
            | beam.ParDo(StartLater())
            | beam.ParDo(_Finish(settings))
            | beam.Map(described)
        )
        assert_that(
            results,
            equal_to([(str(number), 10 * number, 10 * number) for number in numbers]),
            reify_windows=False,
        )
    assert Later.under_way == []
