"""Whole runs from a folder to a dataset: rows, prices, sizes, and what changes none of them."""

import functools
import gc
import os
import random
import signal
import threading
import time
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from numpy.typing import NDArray
from PIL import Image
from runs import command, command_elsewhere, every_backend, quick, rows, tree, upscale
from skimage import data

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.row import Row, Status
from beam_upscale.dataset.records import Record
from beam_upscale.dataset.run_json import RUN_FORMAT, VERSION
from beam_upscale.dataset.verify import verify
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.weights import find
from beam_upscale.pipeline import budget
from beam_upscale.pipeline.commit import group
from beam_upscale.pipeline.execution import Execution, watch
from beam_upscale.pipeline.one_image import states
from beam_upscale.pipeline.one_image.finish import finish
from beam_upscale.pipeline.one_image.prepare import prepare
from beam_upscale.pipeline.run import _spent_before
from beam_upscale.pipeline.run_state.stop import stop_reason
from beam_upscale.pipeline.termination import INTERRUPTED
from beam_upscale.sources.inputs.source_image import SourceImage
from beam_upscale.storage import files
from beam_upscale.storage.protocol.store import FileEntry
from pipelines import upscale_images

# Pictures that come with scikit-image, without a download.
SUBJECTS = ["astronaut", "camera", "chelsea", "coffee", "hubble_deep_field", "rocket", "page"]


def crops(count: int, side: int) -> Iterator[Image.Image]:
    """Square crops of photographs, each another one."""
    generator = np.random.default_rng(0)
    for number in range(count):
        whole = Image.fromarray(getattr(data, SUBJECTS[number % len(SUBJECTS)])())
        left = int(generator.integers(0, whole.width - side + 1))
        top = int(generator.integers(0, whole.height - side + 1))
        yield whole.crop((left, top, left + side, top + side))


@pytest.fixture
def photographs(tmp_path: Path, photograph: Callable[..., Image.Image]) -> Path:
    """Twelve pictures of several kinds and sizes, in two folders."""
    folder = tmp_path / "in"
    (folder / "more").mkdir(parents=True)
    for number, mode in enumerate(["RGB", "L", "RGBA", "P", "CMYK", "1"] * 2):
        below = folder / "more" if number % 2 else folder
        suffix = ".tif" if mode == "CMYK" else ".png"
        picture = photograph(number, 20 + number, 30 - number, mode)
        picture.save((below / f"{number:02}").with_suffix(suffix))
    return folder


def test_every_input_has_a_row_and_its_price(tmp_path: Path, tiny_weights: Path) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    for number, crop in enumerate(crops(50, 24)):
        crop.save(folder / f"{number:02}.png")

    finished = command("run", folder, output, *quick(tiny_weights))

    found = rows(output)
    assert finished.code == 0
    assert "list price 10 credits ($0.1), billed 0 credits" in finished.out
    assert sorted(found) == [f"{number:02}.png" for number in range(50)]
    assert {row.status for row in found.values()} == {Status.UPSCALED}
    assert sum(row.credits for row in found.values()) == Decimal("10.0")
    assert sum(row.usd for row in found.values()) == Decimal("0.1")
    assert sum(row.billed_credits for row in found.values()) == 0
    for row in found.values():
        with Image.open(output / str(row.output_uri)) as image:
            assert image.size == (row.output_width, row.output_height) == (48, 48)
    assert list(verify(str(output))) == []


def test_folder_structure_is_kept(tmp_path: Path, photographs: Path, tiny_weights: Path) -> None:
    upscale(photographs, tmp_path / "out", tiny_weights)

    images = {
        str(path.relative_to(tmp_path / "out/images"))
        for path in (tmp_path / "out/images").rglob("*.png")
    }
    assert images == {f"{n:02}.png" if n % 2 == 0 else f"more/{n:02}.png" for n in range(12)}


@pytest.mark.parametrize(
    "layout",
    [
        pytest.param("files", marks=pytest.mark.slow),
        "parquet",
        pytest.param("webdataset", marks=pytest.mark.slow),
    ],
)
@every_backend
def test_order_and_parallelism_change_nothing(
    tmp_path: Path,
    photographs: Path,
    tiny_weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    layout: str,
    network_backend: str,
) -> None:
    options: dict[str, Any] = {"layout": layout, "shard_rows": 5, "max_credits": Decimal("1.9")}
    options["network_backend"] = network_backend
    upscale(photographs, tmp_path / "one", tiny_weights, workers=1, **options)
    expected = tree(tmp_path / "one")
    list_files = files.list_files

    def shuffled(*arguments: Any) -> list[FileEntry]:
        entries = list(list_files(*arguments))
        random.Random(1).shuffle(entries)
        return entries

    monkeypatch.setattr(files, "list_files", shuffled)
    upscale(photographs, tmp_path / "shuffled", tiny_weights, workers=1, **options)
    upscale(photographs, tmp_path / "four", tiny_weights, workers=4, **options)

    assert len(rows(tmp_path / "one")) == 12
    assert tree(tmp_path / "shuffled") == expected
    assert tree(tmp_path / "four") == expected


def test_no_pixels_outlive_their_image(
    tmp_path: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However many images there are, those before are gone when the next one is read.

    Encoded, they wait for the others of their group, and no longer.
    """
    monkeypatch.setattr(group, "MOST_RESULTS", 4)
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(15):
        photograph(number).save(folder / f"{number}.png")
    arrays: list[weakref.ref[NDArray[np.uint8]]] = []
    results: list[weakref.ref[states.UpscaledImage]] = []
    alive: list[int] = []
    waiting: list[int] = []

    def noted_prepare(*arguments: Any) -> Any:
        alive.append(sum(each() is not None for each in arrays))
        waiting.append(sum(each() is not None for each in results))
        image = prepare(*arguments)
        arrays.extend(weakref.ref(tile.pixels) for tile in image.tiles)
        return image

    def noted_finish(image: Any, inference: Any, *others: Any) -> Any:
        arrays.extend(map(weakref.ref, inference.cores))
        upscaled = finish(image, inference, *others)
        results.append(weakref.ref(upscaled))
        return upscaled

    monkeypatch.setattr("beam_upscale.pipeline.upscale.prepare", noted_prepare)
    monkeypatch.setattr("beam_upscale.pipeline.upscale.finish", noted_finish)

    upscale(folder, tmp_path / "out", tiny_weights)
    gc.collect()

    assert len(results) == 15
    assert len(arrays) == 30
    assert max(alive) <= 3
    # There may be two workers.
    assert max(waiting) <= 2 * 4
    assert [each() for each in [*arrays, *results] if each() is not None] == []


def cut_off_the_network(contacts: str) -> None:
    """Leaves this process the loopback interface, and notes whoever it would speak to."""
    import sys

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "socket.getaddrinfo":
            host = arguments[0]
        elif event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
            host = arguments[1][0]
        else:
            return
        if host not in ("localhost", "127.0.0.1", "::1", None):
            with Path(contacts).open("a") as file:
                file.write(f"{event} {host}\n")
            raise OSError("Network is unreachable")

    sys.addaudithook(note)


@pytest.mark.parametrize("workers", [1, 2])
def test_no_service_is_contacted(
    tmp_path: Path, photographs: Path, tiny_weights: Path, workers: int
) -> None:
    contacts = tmp_path / "contacts"
    arguments = [*quick(tiny_weights)[:-1], str(workers)]

    finished = command_elsewhere(
        tmp_path,
        *("run", photographs, tmp_path / "out", *arguments),
        prepare=functools.partial(cut_off_the_network, str(contacts)),
    )

    assert finished.code == 0
    assert finished.err == "tiny-x2.safetensors on cpu in fp32 by OpenVINO: 12 inputs\n"
    assert not contacts.exists()


@pytest.mark.parametrize(
    ("options", "suffix", "mode"),
    [
        ({"output_format": "jpeg", "quality": 90}, ".jpg", "RGB"),
        ({"output_format": "webp", "quality": 80}, ".webp", "RGBA"),
        ({"output_format": "webp", "lossless": True}, ".webp", "RGBA"),
        ({"output_format": "tiff"}, ".tiff", "RGBA"),
    ],
)
def test_output_formats(
    tmp_path: Path,
    tiny_weights: Path,
    photograph: Callable[..., Image.Image],
    options: dict[str, Any],
    suffix: str,
    mode: str,
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    picture = photograph(3, 40, 30, "RGBA")
    picture.putalpha(128)
    picture.save(folder / "picture.png")

    upscale(folder, tmp_path / "out", tiny_weights, **options)

    row = rows(tmp_path / "out")["picture.png"]
    with Image.open(tmp_path / "out/images" / f"picture{suffix}") as image:
        assert (image.size, image.mode, image.format) == (
            (80, 60),
            mode,
            str(row.output_format).upper(),
        )
    assert list(verify(str(tmp_path / "out"))) == []


def test_output_below_the_input_is_no_input(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    output = photographs / "upscaled"
    for _ in range(2):
        result = upscale(photographs, output, tiny_weights)

        assert result.totals.rows == 12
    assert list(verify(str(output))) == []


def test_names_that_would_meet_in_the_output_stay_apart(
    tmp_path: Path, tiny_weights: Path, photograph: Callable[..., Image.Image]
) -> None:
    folder, output = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    names = [
        "a.png",
        "a.jpg",
        "A.PNG",
        "b.tar.png",
        "c",
        "50%.png",
        "%20.png",
        "é.png",
        "[x]*?.png",
        "- f.png",
    ]
    for number, name in enumerate(names):
        photograph(number, 10 + number, 10).save(folder / name, format="PNG")

    upscale(folder, output, tiny_weights)

    found = rows(output)
    assert set(found) == set(names)
    assert len({row.output_uri for row in found.values()}) == len(names)
    for number, name in enumerate(names):
        with Image.open(output / str(found[name].output_uri)) as image:
            assert image.width == 2 * (10 + number)
    assert list(verify(str(output))) == []


def test_an_input_may_be_one_file_or_a_glob(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    upscale(photographs / "00.png", tmp_path / "one", tiny_weights)
    upscale(f"{photographs}/**/*1.png", tmp_path / "glob", tiny_weights)

    assert list(rows(tmp_path / "one")) == ["00.png"]
    assert sorted(rows(tmp_path / "glob")) == ["more/01.png", "more/11.png"]


def test_budget_is_never_exceeded_and_always_admits_the_same(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    admitted = []
    for output in (tmp_path / "first", tmp_path / "second"):
        result = upscale(photographs, output, tiny_weights, max_credits=Decimal("1.1"))
        again = upscale(photographs, output, tiny_weights, max_credits=Decimal("1.1"))

        assert result.totals == again.totals
        assert result.totals.credits == Decimal("1.0")
        assert result.totals.by_status == {"upscaled": 5, "over_budget": 7}
        admitted.append({n for n, r in rows(output).items() if r.status is Status.UPSCALED})

    assert admitted[0] == admitted[1]


def test_what_was_done_while_a_budget_was_settled_is_not_done_again(
    tmp_path: Path, photographs: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"
    dataset, claim = DatasetFolder(str(output)), budget.claim

    def claimed(source: SourceImage, *arguments: Any) -> budget.Claim:
        # Inputs have been looked up by now. A worker that was lost after the budget had done it.
        if source.name == "00.png":
            row = Row(
                source.input_id,
                source.source_uri,
                Status.FAILED,
                source_sha256=source.sha256(),
                error_code=str(ErrorCode.INVALID_RESULT),
                error_message="paid for, and of no use",
            )
            dataset.write(dataset.record_uri(source.input_id), Record(row, None).to_json())
        return claim(source, *arguments)

    monkeypatch.setattr(budget, "claim", claimed)
    upscale(photographs, output, tiny_weights, max_credits=Decimal(100))

    found = rows(output)
    assert found["00.png"].error_message == "paid for, and of no use"
    assert Counter(row.status for row in found.values()) == {Status.FAILED: 1, Status.UPSCALED: 11}


def test_overwriting_what_a_later_version_left_claims_nothing_of_its_books(
    dataset: DatasetFolder,
) -> None:
    dataset.write_json(dataset.run_json, {"format": RUN_FORMAT, "version": VERSION + 1})

    assert list(_spent_before(dataset)) == []


def test_input_without_images_is_refused_before_anything_is_written(
    tmp_path: Path, tiny_weights: Path
) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/notes.txt").write_text("not an image")

    with pytest.raises(SettingsError) as refused:
        upscale(tmp_path / "in", tmp_path / "out", tiny_weights)

    assert refused.value.code is ErrorCode.NO_INPUT
    assert "(1 other files)" in refused.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("layout", ["files", "parquet"])
def test_pipeline_gives_the_same_images(
    tmp_path: Path, photographs: Path, tiny_weights: Path, layout: str
) -> None:
    upscale(
        photographs,
        tmp_path / "run",
        tiny_weights,
        layout=layout,
        device="auto",
        precision="auto",
        threads=None,
    )

    upscale_images.main(
        [
            *(str(photographs), str(tmp_path / "pipeline")),
            *("--weights", str(tiny_weights), "--layout", layout),
        ]
    )

    ours, theirs = tree(tmp_path / "run"), tree(tmp_path / "pipeline")
    ours.pop("run.json")  # It says more of a run of the command line.
    theirs.pop("run.json")
    assert theirs == ours
    assert list(verify(str(tmp_path / "pipeline"))) == []


def test_device_of_other_machines_is_written_down_as_named_and_checked_by_them(
    tmp_path: Path, photographs: Path, tiny_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    asked = {"device": "cuda", "precision": "fp16"}
    named = [f"--runner={FnApiRunner.__module__}.FnApiRunner"]

    with pytest.raises(Exception, match="The device cuda was requested; this machine"):
        upscale(photographs, tmp_path / "out", tiny_weights, beam_options=named, **asked)
    with pytest.raises(SettingsError, match="The device cuda was requested"):
        upscale(photographs, tmp_path / "local", tiny_weights, **asked)

    run_json = DatasetFolder(str(tmp_path / "out")).read_run()
    assert run_json is not None and run_json.settings is not None
    (stage,) = run_json.settings["stages"]
    assert (stage["model"]["device"], stage["model"]["precision"]) == ("cuda", "fp16")
    assert not (tmp_path / "local").exists()


class RunnerWithServer(FnApiRunner):
    """Sets a signal handler where it begins, as runners do that start a server of their own."""

    def run_pipeline(self, *arguments: Any) -> Any:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        return super().run_pipeline(*arguments)


def test_runner_that_handles_signals_begins_in_the_main_thread_and_leaves_ctrl_c_alone(
    tmp_path: Path, photographs: Path, tiny_weights: Path
) -> None:
    before = signal.getsignal(signal.SIGINT)
    named = [f"--runner={__name__}.RunnerWithServer"]

    upscale(photographs, tmp_path / "named", tiny_weights, beam_options=named)

    assert signal.getsignal(signal.SIGINT) is before
    upscale(photographs, tmp_path / "local", tiny_weights)
    assert tree(tmp_path / "named") == tree(tmp_path / "local")


def test_interrupted_run_ends_when_its_pipeline_does(tmp_path: Path) -> None:
    dataset = DatasetFolder(str(tmp_path))
    is_watched, ended = threading.Event(), []

    def end_late() -> None:
        is_watched.wait()
        os.kill(os.getpid(), signal.SIGINT)
        while stop_reason(dataset) is None:
            time.sleep(0.01)
        time.sleep(1)  # For images that are begun.
        ended.append(True)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        watch(Execution(end_late), dataset, "run", None, lambda _: is_watched.set())
    finally:
        signal.signal(signal.SIGINT, before)

    assert ended == [True]
    assert stop_reason(dataset) == INTERRUPTED


def upscaled_whole(network: Any, image: Image.Image) -> NDArray[np.uint8]:
    """What spandrel makes of a whole image in fp32, reduced to twice its size by Pillow."""
    import torch

    pixels = np.asarray(image.convert("RGB"), np.float32) / 255
    with torch.inference_mode():
        result = network(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    enlarged = (result[0].permute(1, 2, 0).clamp(0, 1).numpy() * 255).round().astype(np.uint8)
    size = (2 * image.width, 2 * image.height)
    return np.asarray(Image.fromarray(enlarged).resize(size, Image.Resampling.LANCZOS))


def psnr(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> float:
    error = np.mean((first.astype(np.float64) - second.astype(np.float64)) ** 2)
    return float("inf") if error == 0 else float(10 * np.log10(255**2 / error))


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_real_weights_on_fifty_photographs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Against spandrel's whole-image fp32, bf16 keeps 50 dB; fp32 is never off by two levels.

    On a CPU that does not multiply in bf16, all fifty are made in fp32. PyTorch keeps 48 dB.
    """
    from spandrel import ModelLoader

    folder, few = tmp_path / "in", tmp_path / "few"
    folder.mkdir()
    few.mkdir()
    for number, crop in enumerate(crops(50, 96)):
        crop.convert("RGB").save(folder / f"{number:02}.png")
        if number < 4:
            crop.convert("RGB").save(few / f"{number:02}.png")

    in_fp32, on_torch = ("--precision", "fp32"), ("--network-backend", "torch")
    for output, photos, options in (
        ("out", folder, ()),
        ("fp32", few, in_fp32),
        ("torch", few, on_torch),
        ("torch_fp32", few, (*in_fp32, *on_torch)),
    ):
        assert command("run", photos, tmp_path / output, "--device", "cpu", *options).code == 0

    found = rows(tmp_path / "out")
    assert len(found) == 50
    assert {(r.status, r.output_width, r.output_height) for r in found.values()} == {
        (Status.UPSCALED, 192, 192)
    }
    assert sum(row.credits for row in found.values()) == Decimal("10.0")
    assert sum(row.billed_credits for row in found.values()) == 0
    (precision,) = {str(row.precision) for row in found.values()}
    path = find.resolve(None, "esrgan-v1-x2plus").path
    network = ModelLoader().load_from_file(path).model.eval()
    for name in sorted(rows(tmp_path / "fp32")):
        expected = upscaled_whole(network, Image.open(few / name))
        made = {
            output: np.asarray(Image.open(tmp_path / output / "images" / name))
            for output in ("out", "fp32", "torch", "torch_fp32")
        }
        decibels = {output: psnr(expected, pixels) for output, pixels in made.items()}
        with capsys.disabled():
            told = ", ".join(f"{output} {value:.1f} dB" for output, value in decibels.items())
            print(f"\n{name} ({precision}): {told}")  # noqa: T201
        assert decibels["out"] >= 50
        assert decibels["torch"] >= 48
        for output in ("fp32", "torch_fp32"):
            off = np.abs(made[output].astype(int) - expected)
            assert off.max() <= 1
            assert np.mean(off == 0) >= 0.999
