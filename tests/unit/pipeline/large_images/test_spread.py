"""Images whose tiles are spread over the workers, against the same ones done in one place."""

import dataclasses
import functools
import hashlib
import os
import signal
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import apache_beam as beam
import faults
import numpy as np
import pytest
import pyvips
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing.util import assert_that, equal_to
from children import WITHOUT_SPACE
from PIL import Image
from runs import (
    ENGINE,
    command,
    command_elsewhere,
    error_codes,
    every_backend,
    quick,
    rows,
    signal_after,
    tree,
    upscale,
)
from web_server import file, serving

import beam_upscale as bu
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold.owners import Folder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.output_hold import hold_output
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.images.decoding import child_process
from beam_upscale.images.decoding.pool import shared_pool
from beam_upscale.images.reading import pixels
from beam_upscale.images.values import ImageHeader
from beam_upscale.inference.elements import Inference, TiledImage
from beam_upscale.pipeline import upscale as pipeline_upscale
from beam_upscale.pipeline.large_images import assemble as large_images_assemble
from beam_upscale.pipeline.large_images import cut, states
from beam_upscale.pipeline.large_images import tiles as large_images_tiles
from beam_upscale.pipeline.one_image import prepare as one_image_prepare
from beam_upscale.pipeline.one_image.states import (
    LargeImage,
    ResultDraft,
    UpscaledImage,
    begun_telemetry,
)
from beam_upscale.pipeline.run_state.held_outputs import output_of_pipeline
from beam_upscale.pipeline.run_state.stop import request_stop, stop_reason
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning import engines
from beam_upscale.planning.engines import Engine
from beam_upscale.planning.tile_layout import Box, TilePlace
from beam_upscale.sources.inputs.source_image import SourceImage

# Megapixels: of what the images here become, some are above it and some are not.
ABOVE = 0.05


def with_small_calls() -> dict[str, Engine]:
    """Engines, of which one takes so little in a call that small images are cut into many."""
    small = dataclasses.replace(engines.ENGINES[ENGINE], input_limit=64 * 64, halo=8)
    return {**engines.ENGINES, ENGINE: small}


@pytest.fixture
def small_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `with_small_calls` gives, for one test."""
    monkeypatch.setattr(engines, "ENGINES", with_small_calls())


def killed_after(results: int) -> None:
    """Prepares a process that kills itself once so many tiles are done."""
    engines.ENGINES = with_small_calls()
    signal_after(r"giants/\w+/results/\d+", results)


def picture(width: int, height: int, bands: int = 3, dtype: type = np.uint8) -> np.ndarray:
    """Waves and noise; alpha hides a good part."""
    y, x = np.mgrid[:height, :width]
    random = np.random.default_rng(width * height)
    planes = [np.sin(x / 9 + y / 13), np.cos((x + y) / 11), np.sin(x * y / 5000)]
    color = np.stack([(1 + plane) * 110 for plane in planes], axis=-1)
    color += random.integers(0, 30, color.shape)
    alpha = np.clip(np.hypot(x - width / 2, y - height / 2) * 4 - 90, 0, 255)
    joined = np.concatenate([color, alpha[..., np.newaxis]], axis=-1)
    kept = {1: joined[..., :1], 2: joined[..., [0, 3]], 3: joined[..., :3], 4: joined}[bands]
    return (kept * (257 if dtype == np.uint16 else 1)).astype(dtype)


def vips(samples: np.ndarray) -> Any:
    height, width, bands = samples.shape
    kind = "ushort" if samples.dtype == np.uint16 else "uchar"
    names = ("rgb16", "grey16") if samples.dtype == np.uint16 else ("srgb", "b-w")
    flat = pyvips.Image.new_from_memory(np.ascontiguousarray(samples), width, height, bands, kind)
    return flat.copy(interpretation=names[bands < 3])


def make_inputs(folder: Path) -> Path:
    """One file of each kind, and two that are not above the threshold."""
    folder.mkdir()
    turned = Image.Exif()
    turned[271], turned[274] = "Maker", 6
    Image.fromarray(picture(200, 150)).save(folder / "a.jpg", quality=90)
    Image.fromarray(picture(200, 150)).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(picture(150, 210)[..., 0]).save(folder / "gray.jpg", progressive=True)
    Image.fromarray(picture(190, 170, 4)).save(folder / "alpha.png", exif=turned)
    vips(picture(180, 160, 2, np.uint16)).write_to_file(str(folder / "deep.png"))
    tiles = {"tile": True, "tile_width": 64, "tile_height": 64, "compression": "deflate"}
    vips(picture(210, 140)).write_to_file(str(folder / "tiles.tif"), **tiles)
    vips(picture(160, 200, 3, np.uint16)).write_to_file(str(folder / "strips.tif"))
    Image.fromarray(picture(200, 150)).convert("CMYK").save(folder / "cmyk.jpg")
    Image.fromarray(picture(170, 170, 4)).save(folder / "web.webp", lossless=True)
    Image.fromarray(picture(60, 50)).save(folder / "small.png")
    Image.fromarray(picture(100, 90)).save(folder / "cut.png")
    return folder


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_inputs(tmp_path_factory.mktemp("large") / "in")


def large_images_of(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the large images that are assembled from now on."""
    seen: list[str] = []
    assemble = large_images_assemble.assemble

    def followed(image: Any, *arguments: Any) -> Any:
        seen.append(image.draft.source.name)
        return assemble(image, *arguments)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.assemble", followed)
    return seen


SPREAD: dict[str, Any] = {"oversize": "tile", "fan_out_above": ABOVE}


@every_backend
def test_files_and_rows_are_those_of_one_place(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
    network_backend: str,
) -> None:
    plain = {"oversize": "tile", "network_backend": network_backend}
    upscale(inputs, tmp_path / "plain", tiny_weights, **plain)
    large = large_images_of(monkeypatch)

    upscale(inputs, tmp_path / "spread", tiny_weights, **SPREAD | plain, workers=2)

    found = rows(tmp_path / "spread")
    assert {row.status for row in found.values()} == {Status.UPSCALED}
    assert tree(tmp_path / "spread") == tree(tmp_path / "plain")
    assert set(large) == found.keys() - {"small.png", "cut.png"}
    assert len(large) == len(set(large))
    assert all(found[name].calls >= 6 for name in large)
    assert list(verify(str(tmp_path / "spread"))) == []


def test_tiff_has_the_same_pixels(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    chosen = {"oversize": "tile", "output_format": "tiff"}
    upscale(inputs / "*a*", tmp_path / "plain", tiny_weights, **chosen)

    upscale(inputs / "*a*", tmp_path / "spread", tiny_weights, **chosen, fan_out_above=ABOVE)

    names = sorted(path.name for path in (tmp_path / "plain" / "images").iterdir())
    assert names == ["a.tiff", "alpha.tiff", "gray.tiff", "small.tiff"]
    for name in names:
        plain, spread = (
            pixels.decode((tmp_path / run / "images" / name).read_bytes(), max_pixels=10**6)
            for run in ("plain", "spread")
        )
        np.testing.assert_array_equal(plain.color, spread.color)
        assert (plain.alpha is None) == (spread.alpha is None)
        if plain.alpha is not None and spread.alpha is not None:
            np.testing.assert_array_equal(plain.alpha, spread.alpha)
    with pytest.raises(SettingsError, match="fan_out_above: 50000 -> 60000"):
        upscale(inputs, tmp_path / "spread", tiny_weights, **chosen, fan_out_above=0.06)


def test_threshold_of_a_run_that_goes_on_may_change(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    upscale(inputs / "s*", tmp_path / "out", tiny_weights, oversize="tile")
    before = tree(tmp_path / "out")

    upscale(inputs / "s*", tmp_path / "out", tiny_weights, **SPREAD)

    assert {name for name in before if name.startswith("images")} == {
        "images/small.png",
        "images/strips.png",
    }
    assert tree(tmp_path / "out") == before


@pytest.mark.parametrize("results", [1, pytest.param(25, marks=pytest.mark.slow)])
def test_killed_run_goes_on_with_the_tiles_it_has(
    results: int,
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, whole = tmp_path / "out", tmp_path / "whole"
    options = ["--oversize", "tile", "--fan-out-above", str(ABOVE)]
    killed = command_elsewhere(
        tmp_path,
        *("run", inputs / "[at]*", output, *quick(tiny_weights), *options),
        prepare=functools.partial(killed_after, results),
    )
    done = [path.name for path in output.glob(".staging/giants/*/results/*")]
    begun: list[int] = []
    persist_tile = large_images_tiles.persist_tile

    def followed(tiled: Any, *arguments: Any) -> Any:
        begun.extend([tiled.first] if tiled.context.result is None else [])
        return persist_tile(tiled, *arguments)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", followed)
    upscale(inputs / "[at]*", output, tiny_weights, **SPREAD)

    upscale(inputs / "[at]*", whole, tiny_weights, oversize="tile")
    assert killed.code == -signal.SIGKILL, killed
    assert len(done) == results
    assert len(begun) == sum(row.calls for row in rows(whole).values()) - results
    assert tree(output) == tree(whole)


def damaged(data: bytes, at: float) -> bytes:
    position = int(len(data) * at)
    return data[:position] + b"\xff" * 200 + data[position + 200 :]


def test_files_damaged_within_have_the_codes_of_one_place(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.jpg", "turned.jpg", "alpha.png"):
        data = (inputs / name).read_bytes()
        (folder / name).write_bytes(data[: len(data) // 2])
    for name in ("tiles.tif", "deep.png"):
        (folder / name).write_bytes(damaged((inputs / name).read_bytes(), 0.5))
    upscale(folder, tmp_path / "plain", tiny_weights, oversize="tile")

    upscale(folder, tmp_path / "spread", tiny_weights, **SPREAD)

    expected = {
        "a.jpg": "truncated",
        "turned.jpg": "truncated",
        "alpha.png": "truncated",
        "tiles.tif": "corrupt",
        "deep.png": "checksum_mismatch",
    }
    assert error_codes(tmp_path / "plain") == expected == error_codes(tmp_path / "spread")
    assert list(verify(str(tmp_path / "spread"))) == []


def change_by_stealth(path: Path) -> None:
    """Changes a file that keeps its size, its time and its place on the disk."""
    before, data = path.stat(), path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("name", ["a.jpg", "tiles.tif"])
@pytest.mark.parametrize(
    ("change", "code"),
    [
        (lambda path: path.unlink(), "not_found"),
        (lambda path: path.write_bytes(path.read_bytes() + b"0"), "read_error"),
        (change_by_stealth, "read_error"),
    ],
)
def test_file_that_changes_before_its_tiles_are_read(
    name: str,
    change: Callable[[Path], None],
    code: str,
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / name
    path.write_bytes((inputs / name).read_bytes())
    # Tiles of the one are read while they are cut, of the other one by one.
    step = "cut" if name == "a.jpg" else "read_tile"
    original = getattr(cut if step == "cut" else large_images_tiles, step)
    changed: list[bool] = []

    def changing(*arguments: Any) -> Any:
        if not changed:
            changed.append(True)
            change(path)
        return original(*arguments)

    monkeypatch.setattr(f"beam_upscale.pipeline.large_images.spread.{step}", changing)
    upscale(path, tmp_path / "out", tiny_weights, **SPREAD)

    row = rows(tmp_path / "out")[name]
    # Of a file that is gone, what tells that it changed may be looked at first.
    assert row.error_code in {code, "read_error"}
    assert (row.status, row.output_uri) == (Status.FAILED, None)


def test_file_that_is_touched_but_not_changed_is_done(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "tiles.tif"
    path.write_bytes((inputs / path.name).read_bytes())
    original = large_images_tiles.read_tile

    def touching(*arguments: Any) -> Any:
        path.chmod(path.stat().st_mode ^ 0o100)
        return original(*arguments)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.read_tile", touching)
    upscale(path, tmp_path / "out", tiny_weights, **SPREAD)

    assert rows(tmp_path / "out")[path.name].status is Status.UPSCALED


def test_file_of_a_web_server_that_was_replaced_is_not_taken_for_the_old(
    tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    made = {}
    with serving() as web:
        for level in (50, 200):
            Image.new("RGB", (100, 90), (level, level, level)).save(tmp_path / "a.tif")
            data = (tmp_path / "a.tif").read_bytes()
            # It has no tag and no date, and the same size.
            web.replies["/a.tif"] = file(data)
            upscale(f"{web.url}/a.tif", tmp_path / f"{level}", tiny_weights, **SPREAD)
            row = rows(tmp_path / f"{level}")["a.tif"]
            assert row.source_sha256 == hashlib.sha256(data).hexdigest()
            made[level] = row.output_sha256

    assert None not in made.values()
    assert made[50] != made[200]


def test_full_temporary_folder_stops_the_run_and_the_next_goes_on(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    upscale(inputs / "turned*", tmp_path / "plain", tiny_weights, oversize="tile")
    with monkeypatch.context() as full:
        full.setattr(child_process, "CHILD_COMMAND", WITHOUT_SPACE)
        with pytest.raises(Exception, match="No space left on device"):
            upscale(inputs / "turned*", tmp_path / "spread", tiny_weights, **SPREAD)

    upscale(inputs / "turned*", tmp_path / "spread", tiny_weights, **SPREAD)

    assert tree(tmp_path / "spread") == tree(tmp_path / "plain")
    assert rows(tmp_path / "spread")["turned.jpg"].status is Status.UPSCALED


def test_budget_is_that_of_the_ordinary_path(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    options: dict[str, Any] = {"max_credits": Decimal(12)}
    upscale(inputs, tmp_path / "plain", tiny_weights, oversize="tile", **options)

    upscale(inputs, tmp_path / "spread", tiny_weights, **SPREAD, **options)

    statuses = {row.status for row in rows(tmp_path / "spread").values()}
    assert statuses == {Status.UPSCALED, Status.OVER_BUDGET}
    assert tree(tmp_path / "spread") == tree(tmp_path / "plain")


def test_result_that_cannot_be_encoded_is_one_failed_row(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any, **__: Any) -> Any:
        raise ImageError(ErrorCode.ENCODE_ERROR, "the encoder ends here")

    monkeypatch.setattr(large_images_assemble, "encode_rows", refuse)

    upscale(inputs / "[as]*", tmp_path / "out", tiny_weights, **SPREAD)

    assert error_codes(tmp_path / "out") == {
        "a.jpg": "encode_error",
        "alpha.png": "encode_error",
        "small.png": None,
        "strips.tif": "encode_error",
    }


def test_network_that_fails_on_a_tile_costs_one_row(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    persist_tile = large_images_tiles.persist_tile

    def failing(tiled: Any, inference: Any, dataset: Any) -> Any:
        if tiled.first == 5:
            error = ImageError(ErrorCode.NOT_A_NUMBER, "no numbers")
            inference = dataclasses.replace(inference, cores=[], error=error)
        return persist_tile(tiled, inference, dataset)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", failing)
    upscale(inputs / "[as]*.*g", tmp_path / "out", tiny_weights, **SPREAD)

    found = rows(tmp_path / "out")
    assert error_codes(tmp_path / "out") == {
        "a.jpg": "not_a_number",
        "alpha.png": "not_a_number",
        "small.png": None,
    }
    assert found["a.jpg"].error_message == "no numbers"


def test_failures_of_tiles_are_told_again_with_what_they_cost(
    tmp_path: Path, tiny_weights: Path
) -> None:
    options = {"weights": str(tiny_weights), "device": "cpu", "precision": "fp32"}
    settings = UpscaleSettings.of(ENGINE, **options, oversize="tile", fan_out_above=ABOVE).pin()
    dataset = DatasetFolder(str(tmp_path / "out"))
    box = Box(0, 0, 8, 8)
    tiles = [
        states.LargeImageTile(
            SourceImage("a"), "key", index, TilePlace(box, box), box, 3, False, (), None
        )
        for index in range(3)
    ]
    unusable = ImageError(ErrorCode.INVALID_RESULT, "no image")
    # Charged before it was found to be unusable; and two that were with the service together.
    inferences = [
        Inference(
            error=unusable,
            notes=("a note",),
            device_seconds=0.5,
            queue_seconds=0.25,
            batch_size=2,
            request_ids=(f"request {index}",),
            billed_credits=Decimal("0.2"),
            attempts=3,
        )
        for index in range(2)
    ]
    for tile, inference in zip(tiles, inferences, strict=False):
        large_images_tiles.persist_tile(
            TiledImage([], 2, context=states.TileContext(tile)), inference, dataset
        )

    # Their worker was lost before it told.
    *again, beside = (
        large_images_tiles.read_tile(
            tile, settings, dataset, shared_pool()
        ).context.result.inference
        for tile in tiles
    )

    assert [dataclasses.replace(each, error=unusable) for each in again] == inferences
    assert [(each.error.code, each.error.message) for each in again] == 2 * [
        (ErrorCode.INVALID_RESULT, "no image")
    ]
    assert beside is None


@pytest.mark.slow
def test_paid_calls_are_those_of_one_place_and_charged_once(
    tmp_path: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    Image.fromarray(picture(1500, 1400, 4)).save(folder / "alpha.png")
    Image.fromarray(picture(1500, 900)).save(folder / "color.jpg")
    (tmp_path / "server").mkdir()
    with faults.server(tmp_path / "server", tiny_weights) as server:
        keys = {name: server.add_key(name) for name in ("plain", "spread")}
        for name, key in keys.items():
            options = ["--backend", "grpc", "--endpoint", f"127.0.0.1:{server.port}"]
            options += ["--api-key-file", str(key), "--workers", "1", "--quiet"]
            words = ["run", folder, tmp_path / name, *options, "--oversize", "tile"]
            if name == "spread":
                words += ["--fan-out-above", "3"]
                killed = command_elsewhere(
                    tmp_path,
                    *words,
                    prepare=functools.partial(signal_after, r"giants/\w+/results/\d+", 2),
                )
                assert killed.code == -signal.SIGKILL, killed
            last = command_elsewhere(tmp_path, *words)
            assert last.code == 0, last
        charges = {name: server.charges(name) for name in keys}

    plain, spread = (rows(tmp_path / name) for name in keys)
    assert tree(tmp_path / "spread") == tree(tmp_path / "plain")
    assert [row.calls for row in plain.values()] == [3, 2]
    for name, found in (("plain", plain), ("spread", spread)):
        asked = [request_id for row in found.values() for request_id in row.request_ids]
        assert sorted(charge.request_id for charge in charges[name]) == sorted(asked)
        assert sum(row.billed_credits for row in found.values()) == Decimal("1.0")


def test_upscale_alone_gives_one_result_for_each_input_whose_bytes_are_in_a_file(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    whole, scratch = tmp_path / "whole", tmp_path / "scratch"
    upscale(inputs / "[as]*.*g", whole, tiny_weights, oversize="tile")
    expected = {
        name: hashlib.sha256((whole / "images" / f"{Path(name).stem}.png").read_bytes()).hexdigest()
        for name in ("a.jpg", "alpha.png", "small.png")
    }

    def described(result: UpscaledImage) -> tuple[str, str, bool, str | None]:
        assert result.record is not None and result.file is not None and result.data is None
        data, row = Path(result.file).read_bytes(), result.record.row
        assert (len(data), hashlib.sha256(data).hexdigest()) == (
            row.output_bytes,
            row.output_sha256,
        )
        return result.source.input_id, row.output_sha256, row.calls > 1, row.output_uri

    sources = [
        bu.SourceImage("a.jpg", uri=str(inputs / "a.jpg")),
        bu.SourceImage("alpha.png", uri=str(inputs / "alpha.png")),
        bu.SourceImage("in memory", data=(inputs / "a.jpg").read_bytes()),
        bu.SourceImage("small.png", uri=str(inputs / "small.png")),
    ]
    for _ in range(2):
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            results = (
                pipeline
                | beam.Create(sources)
                | spread_by_hand(tiny_weights, scratch)
                | beam.Map(described)
            )
            assert_that(
                results,
                equal_to(
                    [
                        ("a.jpg", expected["a.jpg"], True, None),
                        ("alpha.png", expected["alpha.png"], True, None),
                        ("in memory", expected["a.jpg"], True, None),
                        ("small.png", expected["small.png"], False, None),
                    ]
                ),
            )


def spread_by_hand(weights: Path, scratch: Path) -> bu.Upscale:
    """An `Upscale` as a pipeline of one's own has it."""
    options = {**SPREAD, "weights": str(weights), "device": "cpu", "precision": "fp32"}
    return bu.Upscale(ENGINE, threads=1, scratch=str(scratch), **options)


def test_results_keep_the_time_and_the_window_of_their_inputs(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    def described(
        result: UpscaledImage,
        timestamp: Any = beam.DoFn.TimestampParam,
        window: Any = beam.DoFn.WindowParam,
    ) -> tuple[str, int, int]:
        return result.source.input_id, timestamp.seconds(), window.start.seconds()

    sources = [
        (bu.SourceImage("a.jpg", uri=str(inputs / "a.jpg")), 3),
        (bu.SourceImage("small.png", uri=str(inputs / "small.png")), 4),
        (bu.SourceImage("turned.jpg", uri=str(inputs / "turned.jpg")), 15),
    ]
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        results = (
            pipeline
            | beam.Create(sources)
            | beam.MapTuple(beam.window.TimestampedValue)
            | beam.WindowInto(beam.window.FixedWindows(10))
            | spread_by_hand(tiny_weights, tmp_path / "scratch")
            | beam.Map(described)
            | "Together" >> beam.WindowInto(beam.window.GlobalWindows())
        )
        assert_that(
            results, equal_to([("a.jpg", 3, 0), ("small.png", 4, 0), ("turned.jpg", 15, 10)])
        )


def test_scratch_is_needed_to_spread_and_refused_where_the_step_is_made(tiny_weights: Path) -> None:
    with pytest.raises(SettingsError, match="needs a scratch folder") as caught:
        bu.Upscale(ENGINE, weights=str(tiny_weights), device="cpu", **SPREAD)

    assert caught.value.code is ErrorCode.INVALID_OPTION


@pytest.mark.parametrize("own_scratch", [False, True])
def test_pipeline_of_ones_own_leaves_what_the_command_leaves(
    own_scratch: bool,
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, output, whole = inputs / "[as]*", tmp_path / "out", tmp_path / "whole"
    upscale(chosen, whole, tiny_weights, **SPREAD)
    large = large_images_of(monkeypatch)
    scratch = tmp_path / "scratch" if own_scratch else output

    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | bu.ReadImages(str(chosen), output=str(output))
            | spread_by_hand(tiny_weights, scratch)
            | bu.WriteDataset(str(output))
        )

    assert set(large) == {"a.jpg", "alpha.png", "strips.tif"}
    assert files_of(output) == files_of(whole)
    assert list(verify(str(output))) == []
    assert not (output / ".staging").exists()


def files_of(output: Path) -> dict[str, bytes]:
    """All images and manifests of an output."""
    found = [*output.glob("images/*"), *output.glob("manifest/*")]
    return {str(path.relative_to(output)): path.read_bytes() for path in found}


def interrupt(_: UpscaledImage) -> None:
    raise RuntimeError("interrupted")


@pytest.mark.parametrize("own_scratch", [False, True])
def test_results_of_an_interrupted_pipeline_are_taken_up(
    own_scratch: bool,
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chosen, output, whole = inputs / "[as]*.*g", tmp_path / "out", tmp_path / "whole"
    upscale(chosen, whole, tiny_weights, **SPREAD)
    scratch = tmp_path / "scratch" if own_scratch else output
    begun: list[str] = []
    prepare = one_image_prepare.prepare

    def noted(source: SourceImage, *arguments: Any) -> Any:
        prepared = prepare(source, *arguments)
        begun.extend([source.name] if isinstance(prepared, TiledImage) else [])
        return prepared

    monkeypatch.setattr(pipeline_upscale, "prepare", noted)

    def results(pipeline: beam.Pipeline) -> Any:
        images = pipeline | bu.ReadImages(str(chosen), output=str(output))
        return images | spread_by_hand(tiny_weights, scratch)

    with (
        pytest.raises(Exception, match="interrupted"),
        beam.Pipeline(runner=FnApiRunner()) as pipeline,
    ):
        _ = results(pipeline) | beam.Map(interrupt)
    of_the_first = list(begun)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = results(pipeline) | bu.WriteDataset(str(output))

    assert of_the_first == begun == ["small.png"]
    assert files_of(output) == files_of(whole)
    assert list(verify(str(output))) == []


def test_tiles_are_taken_up_by_the_same_engine_only(tmp_path: Path, tiny_weights: Path) -> None:
    options = {"weights": str(tiny_weights), "device": "cpu", "precision": "fp32", **SPREAD}
    one, two = (UpscaleSettings.of(ENGINE, threads=count, **options).pin() for count in (1, 2))
    scratch = DatasetFolder(str(tmp_path / "scratch"))
    row = Row("a", "a", Status.UPSCALED, source_sha256="a hash")
    draft = ResultDraft(SourceImage("a"), row, begun_telemetry())
    large = LargeImage(draft, ImageHeader("png", "RGB", 200, 150, 1, 8), ())
    plan = one.rules.plan(200, 150).stages[0]

    keys = [cut._key(large, plan, settings, scratch) for settings in (one, two, one)]

    assert keys[0] == keys[2] != keys[1]


def test_scratch_folder_is_held_like_an_output(
    inputs: Path, tmp_path: Path, tiny_weights: Path, small_calls: None
) -> None:
    scratch = tmp_path / "scratch"
    source = bu.SourceImage("a.jpg", uri=str(inputs / "a.jpg"))

    with (
        hold_output(str(scratch), in_this_process=True, lease_seconds=10),
        pytest.raises(Exception, match="is held by"),
        beam.Pipeline(runner=FnApiRunner()) as pipeline,
    ):
        _ = pipeline | beam.Create([source]) | spread_by_hand(tiny_weights, scratch)

    assert not (scratch / ".staging/giants").exists()


def test_scratch_folder_that_becomes_the_output_has_its_hold(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output, held = tmp_path / "out", []
    persist_tile = large_images_tiles.persist_tile

    def followed(tiled: Any, inference: Any, scratch: DatasetFolder) -> Any:
        owner = Folder(str(output)).look().owner
        held.append((scratch.hold and scratch.hold.token, owner and owner.token))
        return persist_tile(tiled, inference, scratch)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", followed)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        # No transform before Upscale names the output.
        _ = (
            pipeline
            | bu.ReadImages(str(inputs / "a.jpg"))
            | spread_by_hand(tiny_weights, output)
            | bu.WriteDataset(str(output))
        )
        dataset = output_of_pipeline(pipeline, str(output))

    assert dataset.hold is not None
    assert set(held) == {(dataset.hold.token, dataset.hold.token)}
    assert list(verify(str(output))) == []
    assert not (output / ".staging").exists()


@pytest.mark.parametrize("own_scratch", [False, True])
def test_service_that_refuses_all_calls_stops_the_tiles_of_a_pipeline_of_ones_own(
    own_scratch: bool,
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    scratch = tmp_path / "scratch" if own_scratch else output
    stop = SettingsError(ErrorCode.API_KEY_REFUSED, "the key expired")
    called: list[int] = []
    persist_tile = large_images_tiles.persist_tile

    def refusing(tiled: Any, inference: Inference, scratch: DatasetFolder) -> Any:
        is_called = tiled.context.result is None
        called.extend([tiled.first] if is_called else [])
        is_refused = is_called and len(called) == 3
        return persist_tile(tiled, Inference(stop=stop) if is_refused else inference, scratch)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", refusing)

    def run() -> None:
        with beam.Pipeline(runner=FnApiRunner()) as pipeline:
            _ = (
                pipeline
                | bu.ReadImages(str(inputs / "a*"), output=str(output))
                | spread_by_hand(tiny_weights, scratch)
                | bu.WriteDataset(str(output))
            )

    run()
    begun, reason = len(called), stop_reason(DatasetFolder(str(scratch)))
    run()

    assert reason == "api_key_refused: the key expired"
    # The network had other tiles together with the third.
    assert 3 <= begun <= 5
    # The next run is not stopped, and repeats the refused call.
    assert len(called) == sum(row.calls for row in rows(output).values()) + 1
    assert stop_reason(DatasetFolder(str(scratch))) is None
    assert list(verify(str(output))) == []


def test_killed_run_goes_on_in_a_pipeline_of_ones_own(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "out"
    options = ["--oversize", "tile", "--fan-out-above", str(ABOVE)]
    killed = command_elsewhere(
        tmp_path,
        *("run", inputs / "a*", output, *quick(tiny_weights), *options),
        prepare=functools.partial(killed_after, 2),
    )
    begun: list[int] = []
    persist_tile = large_images_tiles.persist_tile

    def followed(tiled: Any, *arguments: Any) -> Any:
        begun.extend([tiled.first] if tiled.context.result is None else [])
        return persist_tile(tiled, *arguments)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", followed)
    with beam.Pipeline(runner=FnApiRunner()) as pipeline:
        _ = (
            pipeline
            | bu.ReadImages(str(inputs / "a*"), output=str(output))
            | spread_by_hand(tiny_weights, output)
            | bu.WriteDataset(str(output))
        )

    assert killed.code == -signal.SIGKILL, killed
    assert len(begun) == sum(row.calls for row in rows(output).values()) - 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"engine": (ENGINE, ENGINE)}, "a chain"),
        ({"engine": "stable-diffusion-x4-latent-upscaler"}, "canvas of noise"),
        ({"long_side": 4000}, "leave out width"),
        ({"oversize": "shrink"}, "oversize is shrink"),
        ({"output_format": "jpeg"}, "choose png or tiff"),
        ({"fan_out_above": 0}, "must be above 0"),
        ({"fan_out_above": float("nan")}, "must be above 0"),
    ],
)
def test_what_cannot_be_spread_is_refused(options: dict[str, Any], reason: str) -> None:
    chosen = {"engine": ENGINE, **SPREAD, **options}

    with pytest.raises(SettingsError, match=reason) as caught:
        _ = UpscaleSettings.of(chosen.pop("engine"), **chosen).rules

    assert caught.value.code is ErrorCode.INVALID_OPTION


def test_stop_between_two_tiles_leaves_the_image_to_the_next_run(
    inputs: Path,
    tmp_path: Path,
    tiny_weights: Path,
    small_calls: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kept: list[int] = []
    persist_tile = large_images_tiles.persist_tile

    def stopping(tiled: Any, inference: Any, dataset: Any) -> Any:
        kept.extend([tiled.first] if tiled.context.result is None else [])
        if len(kept) == 3:
            request_stop(dataset, "enough")
        return persist_tile(tiled, inference, dataset)

    monkeypatch.setattr("beam_upscale.pipeline.large_images.spread.persist_tile", stopping)
    stopped = upscale(inputs / "a*", tmp_path / "out", tiny_weights, **SPREAD)
    begun = len(kept)
    result = upscale(inputs / "a*", tmp_path / "out", tiny_weights, **SPREAD)

    assert stopped.stopped == "enough"
    assert stopped.totals.rows == 0
    # What was handed to the network with the third is done too.
    assert 3 <= begun <= 5
    assert result.stopped is None
    assert len(kept) == sum(row.calls for row in rows(tmp_path / "out").values())


def test_plan_takes_the_option_and_says_what_does_not_go_with_it(inputs: Path) -> None:
    words = ["plan", inputs / "a.jpg", "--fan-out-above", "0.05"]

    assert command(*words, "--oversize", "tile").code == 0
    refused = command(*words)
    assert refused.code == 2
    assert "fan_out_above does not go with that: oversize is reject" in refused.err


@pytest.mark.parametrize("layout", [Layout.PARQUET, Layout.WEBDATASET])
def test_layouts_that_pack_images_are_refused(
    layout: Layout, inputs: Path, tmp_path: Path, tiny_weights: Path
) -> None:
    with pytest.raises(SettingsError, match="take the layout files"):
        upscale(inputs, tmp_path / "out", tiny_weights, **SPREAD, layout=layout)

    assert not (tmp_path / "out").exists()
