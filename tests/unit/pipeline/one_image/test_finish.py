"""What becomes of an image once a network has seen it."""

import dataclasses
import hashlib
import io
import os
import sys
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam.ml.inference.base import PredictionResult
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import Timestamp
from encoder_calls import MARKED, misbehaving
from one_image import (
    ENGINE,
    LATENT,
    double,
    encoded,
    finished,
    oversized,
    pixels_of,
    prepared,
    row_of,
    source,
    upscale,
)
from PIL import Image, ImageCms

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.errors import FULL_DISK, ErrorCode, ImageError, SettingsError
from beam_upscale.images.encoding.pool import EncoderPool
from beam_upscale.images.encoding.unencoded import UnencodedImage
from beam_upscale.images.reading.pixels import decode
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.inference.elements import Inference
from beam_upscale.pipeline.one_image.finish import finish, finish_gathered
from beam_upscale.pipeline.one_image.states import UpscaledImage
from beam_upscale.pipeline.run_state.resume import RequestedParameters, still_holds
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.pipeline.upscale import Finish
from beam_upscale.planning.parameters import DEFAULT_PROMPT_COLUMN, Parameters
from beam_upscale.planning.plan_options import OutputFormat
from beam_upscale.sources.inputs.source_image import SourceImage

ORIENTATION, TURNED_LEFT = 0x0112, 6


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
        model=settings.stages[0].pinned.name,
        weights_sha256=settings.stages[0].pinned.weights_sha256,
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
    result = pixels_of(finished(tiled, double(tiled), settings))

    assert (color.pixels == (200, 180, 160)).all()  # What the network sees has no black.
    assert np.array_equal(alpha.pixels[:, :, 0], pixels[:, :, 3])
    assert np.array_equal(result[..., 3], pixels[..., 3].repeat(2, 0).repeat(2, 1))
    assert (result[..., :3] == (200, 180, 160)).all()


def test_sixteen_bits_stay_sixteen_bits(settings: PinnedSettings) -> None:
    deep = np.random.default_rng(0).integers(0, 65_536, (10, 12, 3), np.uint16)

    result = upscale(source(encoding.encode(deep).data), settings)

    assert result.data is not None
    decoded = decode(result.data, max_pixels=10**6)
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

    assert tiled.context.notes == ("unusable ICC profile dropped",)
    assert row_of(finished(tiled, double(tiled), settings)).status is Status.UPSCALED


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


def test_an_oversized_picture_is_tiled_and_stitched(pin: Callable[..., PinnedSettings]) -> None:
    pixels = oversized()
    settings = pin(oversize="tile", halo=24)

    tiled = prepared(source(encoded(Image.fromarray(pixels))), settings)
    tiles = list(tiled.tiles)
    finishing = Finish(settings)
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
    assert row.notes == (f"upscaled in {row.calls} tiles",)
    assert row.halo == 24


def test_an_oversized_picture_is_shrunk(pin: Callable[..., PinnedSettings]) -> None:
    data = encoded(Image.fromarray(oversized()))
    settings = pin(oversize="shrink")

    tiled = prepared(source(data), settings)
    height, width = tiled.tiles[0].pixels.shape[:2]
    row = row_of(finished(tiled, double(tiled), settings))

    assert 1040 * 1024 > height * width > 1020 * 1020
    assert (row.output_width, row.output_height) == (2 * width, 2 * height)
    assert row.notes == (f"shrunk to {width} x {height} before upscaling",)
    assert row.calls == 1


@pytest.mark.parametrize("number", sorted(FULL_DISK))
def test_full_disk_is_no_images_fault(
    number: int,
    settings: PinnedSettings,
    photograph: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fill_the_disk(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    picture = source(encoded(photograph(0, 20, 15)))
    tiled = prepared(picture, settings)
    monkeypatch.setattr(SourceImage, "read", fill_the_disk)
    monkeypatch.setattr(UnencodedImage, "encoded", fill_the_disk)

    with pytest.raises(OSError, match=os.strerror(number)):
        prepared(picture, settings)
    with pytest.raises(OSError, match=os.strerror(number)):
        finished(tiled, double(tiled), settings)


def test_the_networks_error_is_the_inputs(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    tiled = prepared(source(encoded(photograph())), settings)

    result = finished(
        tiled, Inference(error=ImageError(ErrorCode.OUT_OF_MEMORY, "too large")), settings
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

    row = row_of(finished(tiled, double(tiled), as_webp))

    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.ENCODE_ERROR)


def test_image_on_which_encoders_are_lost_fails(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    tiled = prepared(source(encoded(photograph(0, 60, 50), "JPEG", xmp=MARKED.xmp)), settings)

    with EncoderPool(1, command=misbehaving("os._exit(3)")) as encoders:
        result = finish(tiled.context, double(tiled), settings, encoders)

    row = row_of(result)
    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.ENCODE_ERROR)
    assert "two encoder processes were lost" in (row.error_message or "")


def test_image_without_encoders_is_left_to_a_later_run(
    settings: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    tiled = prepared(source(encoded(photograph(0, 60, 50))), settings)

    with EncoderPool(1, command=[sys.executable, "-c", "raise SystemExit(7)"]) as encoders:
        result = finish(tiled.context, double(tiled), settings, encoders)

    assert (result.record, result.data) == (None, None)
    assert result.stop is not None
    assert result.stop.code is ErrorCode.ENCODER_UNAVAILABLE


def test_alpha_is_no_call_of_its_own(
    remote: PinnedSettings, photograph: Callable[..., Image.Image]
) -> None:
    picture = photograph(0, 40, 30)
    picture.putalpha(Image.linear_gradient("L").resize((40, 30)))
    tiled = prepared(source(encoded(picture)), remote)
    shapes = [tile.pixels.shape for tile in tiled.tiles]

    result = finished(tiled, double(tiled), remote)

    assert shapes == [(30, 40, 3)]
    assert row_of(result).calls == 1
    expected = picture.getchannel("A").resize((80, 60), Image.Resampling.LANCZOS)
    assert np.array_equal(pixels_of(result)[:, :, 3], np.asarray(expected))


def test_a_noise_level_that_cannot_be_sent_stands_in_a_row_that_holds(tmp_path: Path) -> None:
    pinned = UpscaleSettings.of(LATENT, backend="grpc", endpoint="localhost:1").pin()
    noisy = source(encoded(Image.new("RGB", (8, 8))), columns={"noise_level": 100})

    row = row_of(finished(prepared(noisy, pinned), Inference(), pinned))

    assert (row.status, row.error_code) == (Status.REJECTED, ErrorCode.INVALID_NOISE_LEVEL)
    assert row.noise_level == 100
    requested = RequestedParameters(Parameters(), DEFAULT_PROMPT_COLUMN)
    assert still_holds(noisy, row, DatasetFolder(str(tmp_path)), requested)


def test_what_was_billed_stands_in_the_row_of_an_image_that_failed(remote: PinnedSettings) -> None:
    tiled = prepared(source(encoded(Image.new("RGB", (1500, 1000)))), remote)
    error = ImageError(ErrorCode.SERVICE_ERROR, "the service could not make it")
    inference = Inference(
        error=error, request_ids=("1", "2"), billed_credits=Decimal("0.2"), attempts=3
    )

    result = finished(tiled, inference, remote)

    row = row_of(result)
    assert (row.status, row.error_code) == (Status.FAILED, ErrorCode.SERVICE_ERROR)
    assert (row.request_ids, row.billed_credits, row.credits) == (("1", "2"), Decimal("0.2"), 0)
    assert result.record is not None
    assert result.record.telemetry is not None
    assert result.record.telemetry.attempts == 3


def test_what_a_service_withholds_is_filtered(remote: PinnedSettings) -> None:
    tiled = prepared(source(encoded(Image.new("RGB", (40, 30)))), remote)

    row = row_of(finished(tiled, Inference(error=ImageError(ErrorCode.FILTERED, "")), remote))

    assert (row.status, row.billed_credits, row.credits) == (Status.FILTERED, 0, 0)


def test_an_image_that_was_not_tried_has_no_row(remote: PinnedSettings) -> None:
    tiled = prepared(source(encoded(Image.new("RGB", (40, 30)))), remote)
    stop = SettingsError(ErrorCode.API_KEY_REFUSED, "the key expired")

    result = finished(tiled, Inference(stop=stop), remote)

    assert (result.record, result.data, result.stop) == (None, None, stop)


# Images that are encoded together


def in_flight(*images: SourceImage, settings: PinnedSettings) -> list[tuple[Any, Inference]]:
    """Images as they come from a network that doubles them."""
    tiled = [prepared(image, settings) for image in images]
    return [(each.context, double(each)) for each in tiled]


def finished_alone(
    image: tuple[Any, Inference], settings: PinnedSettings, encoders: EncoderPool
) -> tuple[Any, ...]:
    """The result of an image outside of a group; its cores stay where they are."""
    context, inference = image
    copied = dataclasses.replace(inference, cores=list(inference.cores))
    return essence(finish(context, copied, settings, encoders))


def essence(result: UpscaledImage) -> tuple[Any, ...]:
    """A result without the times that it took."""
    return result.source, row_of(result), result.data, result.stop, result.intermediates


@pytest.fixture
def pictures(photograph: Callable[..., Image.Image]) -> list[SourceImage]:
    """Images of several kinds, on one of which an encoder may misbehave."""
    deep = np.random.default_rng(0).integers(0, 65_536, (40, 60, 3), np.uint16)
    with_alpha = photograph(3, 70, 50)
    with_alpha.putalpha(Image.linear_gradient("L").resize((70, 50)))
    data = [
        encoded(photograph(1, 60, 50)),
        encoded(photograph(2, 50, 60, "L")),
        encoded(with_alpha),
        encoded(photograph(4, 60, 50), "JPEG", xmp=MARKED.xmp),
        encoding.encode(deep).data,
        encoded(photograph(5, 3, 2)),
    ]
    return [SourceImage(str(number), data=each) for number, each in enumerate(data)]


@pytest.fixture
def encoders() -> Iterator[EncoderPool]:
    with EncoderPool(1) as pool:
        yield pool


@pytest.fixture
def groups(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in each group that is given to encoders."""
    sizes: list[int] = []
    encode_small = EncoderPool.encode_small

    def encode(pool: EncoderPool, images: Any) -> Any:
        sizes.append(len(images))
        return encode_small(pool, images)

    monkeypatch.setattr(EncoderPool, "encode_small", encode)
    return sizes


@pytest.mark.parametrize("format_", OutputFormat)
def test_group_gives_the_results_of_each_alone(
    format_: OutputFormat,
    settings: PinnedSettings,
    pictures: list[SourceImage],
    encoders: EncoderPool,
    groups: list[int],
) -> None:
    settings = dataclasses.replace(settings, encode=EncodeOptions(format_))
    images = in_flight(*pictures, settings=settings)
    alone = [finished_alone(image, settings, encoders) for image in images]

    found = finish_gathered(images, settings, encoders)

    assert groups == [len(pictures)]
    assert [row_of(result).status for result in found] == [Status.UPSCALED] * len(pictures)
    assert list(map(essence, found)) == alone


def test_group_of_one_is_encoded_alone(
    settings: PinnedSettings,
    pictures: list[SourceImage],
    encoders: EncoderPool,
    groups: list[int],
) -> None:
    (image,) = in_flight(pictures[0], settings=settings)
    alone = finished_alone(image, settings, encoders)

    (found,) = finish_gathered([image], settings, encoders)

    assert groups == []
    assert essence(found) == alone
    assert finish_gathered([], settings, encoders) == []


def test_image_of_a_group_without_pixels_leaves_the_others_in_their_order(
    settings: PinnedSettings,
    pictures: list[SourceImage],
    encoders: EncoderPool,
    groups: list[int],
) -> None:
    images = in_flight(*pictures, settings=settings)
    failure = ImageError(ErrorCode.OUT_OF_MEMORY, "too large")
    stop = SettingsError(ErrorCode.API_KEY_REFUSED, "the key expired")
    images[0] = images[0][0], Inference(error=failure)
    images[2] = images[2][0], Inference(stop=stop)
    # Its tiles are missing, which is a mistake of ours.
    images[5] = images[5][0], Inference()
    alone = [finished_alone(images[number], settings, encoders) for number in (1, 3, 4)]

    failed, first, stopped, *others, mistaken = finish_gathered(images, settings, encoders)

    assert groups == [3]
    assert row_of(failed).error_code == ErrorCode.OUT_OF_MEMORY
    assert (stopped.record, stopped.data, stopped.stop) == (None, None, stop)
    assert row_of(mistaken).error_code == ErrorCode.INTERNAL_ERROR
    assert [essence(result) for result in (first, *others)] == alone


@pytest.mark.parametrize(
    ("behavior", "code"),
    [
        ("raise ImageError(ErrorCode.ENCODE_ERROR, 'no')", ErrorCode.ENCODE_ERROR),
        ("raise MemoryError", ErrorCode.OUT_OF_MEMORY),
        ("raise ZeroDivisionError", ErrorCode.INTERNAL_ERROR),
        ("os._exit(3)", ErrorCode.ENCODE_ERROR),
    ],
)
def test_image_of_a_group_that_cannot_be_encoded_fails_alone(
    behavior: str, code: ErrorCode, settings: PinnedSettings, pictures: list[SourceImage]
) -> None:
    images = in_flight(*pictures, settings=settings)

    with EncoderPool(1, command=misbehaving(behavior)) as encoders:
        found = finish_gathered(images, settings, encoders)

    codes = [row_of(result).error_code for result in found]
    assert codes == [None, None, None, code, None, None]
    assert [result.data is None for result in found].count(True) == 1
    assert row_of(found[4]).input_mode == "RGB;16"


def test_group_without_encoders_is_left_to_a_later_run(
    settings: PinnedSettings, pictures: list[SourceImage]
) -> None:
    images = in_flight(*pictures[:2], settings=settings)

    with EncoderPool(1, command=[sys.executable, "-c", "raise SystemExit(7)"]) as encoders:
        found = finish_gathered(images, settings, encoders)

    for result in found:
        assert (result.record, result.data) == (None, None)
        assert result.stop is not None
        assert result.stop.code is ErrorCode.ENCODER_UNAVAILABLE


def test_full_disk_is_no_fault_of_a_group(
    settings: PinnedSettings, pictures: list[SourceImage]
) -> None:
    images = in_flight(*pictures, settings=settings)
    behavior = "raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))"

    with (
        EncoderPool(1, command=misbehaving(behavior)) as encoders,
        pytest.raises(OSError, match="No space left"),
    ):
        finish_gathered(images, settings, encoders)
