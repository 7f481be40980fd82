"""What only a CUDA device can show: `make test-gpu`, without network, with weights as files."""

import threading
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest
import skimage.data
import torch
from numpy.typing import NDArray
from PIL import Image

from beam_upscale.images import resampling, values
from beam_upscale.images.writing import encoding
from beam_upscale.images.writing.encode_options import EncodeOptions
from beam_upscale.inference.batching import Batched, Batcher, Patch
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.diffusion.latent import LatentNetwork
from beam_upscale.inference.networks.diffusion.latent_pipeline import Job
from beam_upscale.inference.networks.numerics import DTYPES
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork
from beam_upscale.inference.weights import find
from beam_upscale.pipeline.request import Run
from beam_upscale.pipeline.run import run
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.planning.parameters import Parameters
from beam_upscale.planning.tile_layout import whole

pytestmark = pytest.mark.gpu

Pixels = NDArray[np.uint8]


def crop(name: str, side: int = 128) -> Pixels:
    picture = getattr(skimage.data, name)()
    return np.ascontiguousarray(picture[64 : 64 + side, 128 : 128 + side, :3])


def psnr(ours: Pixels, reference: Pixels) -> float:
    error = np.mean((ours.astype(np.float64) - reference.astype(np.float64)) ** 2)
    return float(10 * np.log10(255**2 / error))


@pytest.fixture(scope="module")
def path() -> Path:
    return find.resolve(None, "esrgan-v1-x2plus").path


@pytest.fixture(scope="module")
def reference(path: Path) -> TorchNetwork:
    return TorchNetwork.load(path, Device.CPU, Precision.FP32, threads=torch.get_num_threads())


@pytest.fixture(autouse=True)
def free_memory() -> Iterator[None]:
    yield
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.parametrize(
    ("precision", "decibels"),
    [(Precision.FP32, 60.0), (Precision.FP16, 45.0), (Precision.BF16, 45.0)],
)
@pytest.mark.parametrize("name", ["astronaut", "chelsea", "coffee", "rocket"])
def test_a_precision_comes_close_to_fp32_on_the_cpu(
    path: Path, reference: TorchNetwork, name: str, precision: Precision, decibels: float
) -> None:
    batch = crop(name)[np.newaxis]
    model = TorchNetwork.load(path, Device.CUDA, precision, threads=1)

    ours = resampling.resize(model.upscale(batch)[0], 256, 256)
    expected = resampling.resize(reference.upscale(batch)[0], 256, 256)

    assert psnr(ours, expected) >= decibels


def test_tiles_of_mixed_images_in_one_batch_stay_what_they_are_alone(path: Path) -> None:
    model = TorchNetwork.load(path, Device.CUDA, Precision.FP16, threads=1)
    batcher = Batcher(
        lambda patches: list(model.upscale(np.stack([patch.pixels for patch in patches]))),
        max_batch_pixels=8 * 128 * 128,
    )
    tiles = [crop(name) for name in ("astronaut", "chelsea", "coffee", "rocket")] * 4
    alone = [model.upscale(tile[np.newaxis])[0] for tile in tiles]
    results: dict[int, Batched] = {}

    def upscale(index: int) -> None:
        results[index] = batcher.upscale(Patch(tiles[index]))

    threads = [threading.Thread(target=upscale, args=(index,)) for index in range(len(tiles))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert max(result.batch_size for result in results.values()) > 1
    for index, expected in enumerate(alone):
        difference = np.abs(results[index].pixels.astype(int) - expected.astype(int))
        assert difference.max() <= 2
        assert np.mean(difference > 1) <= 1e-4


def test_running_out_of_memory_changes_no_pixel_that_matters(path: Path) -> None:
    model = TorchNetwork.load(path, Device.CUDA, Precision.FP16, threads=1)
    batch = np.stack([crop(name, side=256) for name in ("astronaut", "chelsea", "coffee")] * 4)
    expected = model.upscale(batch)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    model.upscale(batch[:1])
    enough_for_one = torch.cuda.max_memory_reserved()
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 1.5 * enough_for_one / total))

    ours = model.upscale(batch)

    difference = np.abs(ours.astype(int) - expected.astype(int))
    assert difference.max() <= 2
    assert np.mean(difference > 1) <= 1e-4


def test_a_run_on_the_gpu_accounts_for_every_input(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for index, name in enumerate(("astronaut", "chelsea", "coffee", "rocket") * 3):
        encoded = encoding.encode(
            crop(name), None, metadata=values.Metadata(), options=EncodeOptions()
        )
        (folder / f"{index:02d}-{name}.png").write_bytes(encoded.data)
    settings = UpscaleSettings.of(device="cuda")

    result = run(Run(str(folder), str(tmp_path / "out"), settings, workers=4))

    assert result.totals.by_status == {"upscaled": 12}
    assert result.totals.credits == Decimal("2.4")


def diffusion_jobs(count: int) -> list[Job]:
    return [
        Job(
            crop("chelsea", side=64),
            Parameters("a cat", steps=4, seed=1 + number),
            whole(64, 64),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.FP16])
def test_diffusion_gives_what_the_library_gives_on_the_same_device(
    tiny_pipeline: Path, precision: Precision
) -> None:
    from diffusers import StableDiffusionUpscalePipeline

    (job,) = diffusion_jobs(1)
    bare = StableDiffusionUpscalePipeline.from_pretrained(tiny_pipeline, dtype=DTYPES[precision])
    bare.to("cuda").set_progress_bar_config(disable=True)

    model = LatentNetwork.load(tiny_pipeline, Device.CUDA, precision, threads=1)
    (ours,) = model.upscale([job])

    expected = bare(
        job.parameters.prompt,
        image=Image.fromarray(job.pixels),
        guidance_scale=job.parameters.cfg_scale,
        num_inference_steps=job.parameters.steps,
        noise_level=job.parameters.noise_level,
        generator=torch.Generator("cpu").manual_seed(job.parameters.seed),
    ).images[0]
    assert np.array_equal(ours, np.asarray(expected))


def test_diffusion_jobs_in_one_batch_stay_near_what_they_are_alone(tiny_pipeline: Path) -> None:
    model = LatentNetwork.load(tiny_pipeline, Device.CUDA, Precision.FP32, threads=1)
    jobs = diffusion_jobs(6)
    alone = [model.upscale([job])[0].astype(int) for job in jobs]

    together = model.upscale(jobs)

    for ours, expected in zip(together, alone, strict=True):
        assert np.mean(np.abs(ours - expected) > 1) <= 1e-3


def test_strips_on_the_gpu_give_the_whole_decoders_result(tiny_pipeline: Path) -> None:
    jobs = diffusion_jobs(1)
    loaded = [
        LatentNetwork.load(tiny_pipeline, Device.CUDA, Precision.FP32, threads=1, vae_tiling=tiling)
        for tiling in (False, True)
    ]

    whole_decode, in_strips = (model.upscale(jobs)[0].astype(int) for model in loaded)

    assert np.abs(whole_decode - in_strips).max() <= 1
