"""The diffusion upscaler against the library's own call, on a small pipeline of its classes."""

import subprocess
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from latent_jobs import QUICK, Pixels, grid, job, load, picture
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from small_pipelines import SCHEDULERS, change_config, small_autoencoder, small_pipeline

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.diffusion.latent import LatentNetwork
from beam_upscale.inference.networks.diffusion.latent_pipeline import Job
from beam_upscale.planning.parameters import Parameters


@pytest.fixture(scope="module")
def model(tiny_pipeline: Path) -> LatentNetwork:
    return load(tiny_pipeline)


def library_result(
    folder: Path,
    pixels: Pixels,
    parameters: Parameters,
    dtype: torch.dtype = torch.float32,
) -> NDArray[np.uint8]:
    """What the library's own call gives, as in a notebook."""
    from diffusers import StableDiffusionUpscalePipeline

    torch.set_num_threads(1)
    pipeline = StableDiffusionUpscalePipeline.from_pretrained(folder, dtype=dtype)
    pipeline.set_progress_bar_config(disable=True)
    result = pipeline(
        parameters.prompt,
        image=Image.fromarray(pixels),
        negative_prompt=parameters.negative_prompt or None,
        guidance_scale=parameters.cfg_scale,
        num_inference_steps=parameters.steps,
        noise_level=parameters.noise_level,
        generator=torch.Generator("cpu").manual_seed(parameters.seed),
    )
    return np.asarray(result.images[0])


@pytest.mark.parametrize("scheduler", SCHEDULERS)
@pytest.mark.parametrize(
    "parameters",
    [
        Parameters("a cat", "a dog", cfg_scale=7.5, steps=4, seed=1, noise_level=20),
        Parameters("a cat", "", cfg_scale=7.5, steps=3, seed=2**32 - 1, noise_level=0),
        Parameters("", "", cfg_scale=3, steps=1, seed=12345, noise_level=350),
        Parameters("a cat", "a dog", cfg_scale=1, steps=3, seed=3),
        Parameters("a cat", "a dog", cfg_scale=0, steps=2, seed=4),
        Parameters("a cat " * 60, "a dog " * 60, cfg_scale=5, steps=2, seed=5),
    ],
    ids=["guided", "no negative prompt", "no prompt", "unguided", "scale 0", "long prompts"],
)
def test_a_seed_gives_what_the_library_s_call_gives(
    tmp_path: Path, scheduler: str, parameters: Parameters
) -> None:
    folder = small_pipeline(tmp_path, scheduler=scheduler)
    pixels = picture(32, 24)

    (result,) = load(folder).upscale([job(pixels, parameters)])

    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, library_result(folder, pixels, parameters))
    assert 20 < result.std() < 120
    assert np.isin(result, (0, 255)).mean() < 0.2


@pytest.mark.parametrize(
    "changes",
    [
        {"seed": 8},
        {"steps": 3},
        {"cfg_scale": 2},
        {"noise_level": 100},
        {"prompt": "b"},
        {"negative_prompt": "b"},
    ],
    ids=str,
)
def test_every_parameter_changes_the_result(model: LatentNetwork, changes: dict[str, Any]) -> None:
    pixels = picture(16, 16)

    plain, changed = model.upscale([job(pixels), job(pixels, **changes)])

    assert not np.array_equal(plain, changed)


def test_fp16_decodes_in_fp32_where_the_autoencoder_asks_for_it(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "beam_upscale.inference.networks.device._linux_flags", lambda: {"avx512_fp16"}
    )
    pixels = picture(16, 16)

    half = LatentNetwork.load(tiny_pipeline, Device.CPU, Precision.FP16, threads=1)

    assert half._pipeline.unet.dtype == torch.float16
    assert half._pipeline.vae.dtype == torch.float32
    asked = job(pixels, steps=2)
    expected = library_result(tiny_pipeline, pixels, asked.parameters, torch.float16)
    np.testing.assert_array_equal(half.upscale([asked])[0], expected)


def test_no_image_depends_on_its_neighbors(model: LatentNetwork) -> None:
    jobs = [
        job(picture(8 + 3 * number, 16, seed=number), seed=1 + number, steps=1 + number % 2)
        for number in range(12)
    ]
    alone = [model.upscale([each])[0].tobytes() for each in jobs]
    order = np.random.default_rng(0).permutation(12)

    together = model.upscale(jobs)
    permuted = model.upscale([jobs[index] for index in order])

    assert [each.tobytes() for each in together] == alone
    assert [each.tobytes() for each in permuted] == [alone[index] for index in order]
    assert len(set(alone)) == 12


def test_threads_do_not_disturb_one_another(model: LatentNetwork) -> None:
    jobs = [job(picture(16, 16, seed=number), seed=1 + number) for number in range(6)]
    expected = [result.tobytes() for result in model.upscale(jobs)]

    with ThreadPoolExecutor(3) as threads:
        results = list(threads.map(lambda each: model.upscale([each])[0].tobytes(), jobs))

    assert results == expected


def test_the_thread_that_computes_uses_the_threads_asked_for(
    tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = LatentNetwork.load(tiny_pipeline, Device.CPU, Precision.FP32, threads=2)
    found = []
    forward = model._pipeline.unet.forward
    monkeypatch.setattr(
        model._pipeline.unet,
        "forward",
        lambda *args, **kwargs: (found.append(torch.get_num_threads()), forward(*args, **kwargs))[
            1
        ],
    )
    thread = threading.Thread(target=model.upscale, args=([job(picture(8, 8))],))

    thread.start()
    thread.join()

    assert set(found) == {2}


class Batching(LatentNetwork):
    """Computes on the CPU as on CUDA, in batches."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.device = Device.CUDA
        self.batch_sizes: list[int] = []
        self.fits = 99

    def _denoise(self, jobs: Sequence[Job], *args: Any) -> Any:
        self.batch_sizes.append(len(jobs))
        if len(jobs) > self.fits:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore.")
        return super()._denoise(jobs, *args)


@pytest.fixture
def batching(tiny_pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> Batching:
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return Batching.load(tiny_pipeline, Device.CPU, Precision.FP32, threads=1)


def test_images_of_one_kind_share_a_batch(batching: Batching, model: LatentNetwork) -> None:
    jobs = [job(picture(16, 8, seed=number), seed=1 + number) for number in range(3)]
    jobs.insert(1, job(picture(8, 8)))
    jobs.append(job(picture(16, 8), steps=3))
    steps = []

    results = batching.upscale(jobs, lambda done, total: steps.append((done, total)))

    assert batching.batch_sizes == [3, 1, 1]
    assert steps == [(done, 11) for done in (3, 6, 7, 8, 9, 10, 11)]
    for result, expected in zip(results, model.upscale(jobs), strict=True):
        # Batches of another size round differently.
        assert np.abs(result.astype(int) - expected).max() <= 1


def test_a_batch_that_does_not_fit_is_halved(batching: Batching, model: LatentNetwork) -> None:
    batching.fits = 2
    jobs = [job(picture(8, 8, seed=number), seed=1 + number, steps=1) for number in range(5)]

    results = batching.upscale(jobs)

    assert batching.batch_sizes == [5, 2, 3, 1, 2]
    for result, expected in zip(results, model.upscale(jobs), strict=True):
        assert np.abs(result.astype(int) - expected).max() <= 1


def test_one_image_that_does_not_fit_is_an_error(batching: Batching) -> None:
    batching.fits = 0

    with pytest.raises(ImageError, match=r"16 x 8 pixels .* Tried to allocate 2.00 GiB") as caught:
        batching.upscale([job(picture(16, 8))])

    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


def test_kinds(model: LatentNetwork) -> None:
    pixels = picture(16, 8)
    tiles = Job(pixels, QUICK, grid(16, 8, core=8, halo=4))

    assert job(pixels).kind == job(picture(16, 8, seed=1), seed=9, prompt="x").kind
    for other in (
        job(picture(8, 16)),
        job(pixels[..., :1]),
        job(pixels.astype(np.uint16)),
        job(pixels, steps=3),
        job(pixels, cfg_scale=6),
        job(pixels, noise_level=0),
        tiles,
        Job(pixels, QUICK, tiles.tiles),
    ):
        assert other.kind != job(pixels).kind
        assert other.kind == other.kind
    assert tiles.kind != Job(pixels, QUICK, tiles.tiles).kind


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (9, 7), (8, 13), (2, 3)], ids=str)
def test_any_size_is_enlarged_by_the_scale(model: LatentNetwork, size: tuple[int, int]) -> None:
    width, height = size

    (result,) = model.upscale([job(picture(width, height))])

    assert result.shape == (4 * height, 4 * width, 3)
    assert result.std() > 5


def test_padding_is_reflection_and_is_never_decoded(
    model: LatentNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    pixels = picture(10, 5)
    decoded = []
    decode = model._decode
    monkeypatch.setattr(
        model, "_decode", lambda latents: (decoded.append(latents.clone()), decode(latents))[1]
    )
    padded = np.pad(pixels, ((0, 3), (0, 6), (0, 0)), "reflect")

    model.upscale([job(pixels), job(padded)])

    assert decoded[0].shape == (1, 4, 5, 10)
    torch.testing.assert_close(decoded[0], decoded[1][..., :5, :10], rtol=0, atol=0)


def test_sixteen_bits_stay_sixteen_bits(model: LatentNetwork) -> None:
    eight = picture(16, 16)
    sixteen = eight.astype(np.uint16) * 257

    low, high = model.upscale([job(eight), job(sixteen)])

    assert high.dtype == np.uint16
    assert len(np.unique(high)) > 1000
    assert np.abs(high / 257 - low).max() <= 0.51


def test_grayscale_is_the_mean_of_three_copies(model: LatentNetwork) -> None:
    gray = picture(16, 16)[..., :1]

    result, color = model.upscale([job(gray), job(np.repeat(gray, 3, axis=-1))])

    assert result.shape == (64, 64, 1)
    # The mean is taken before rounding.
    assert np.abs(result - color.mean(-1, keepdims=True)).max() <= 1


def test_texts_are_embedded_once(tiny_pipeline: Path) -> None:
    model = load(tiny_pipeline)
    encoded = []
    encode = model._pipeline.encode_prompt
    model._pipeline.encode_prompt = lambda text, *args: (encoded.append(text), encode(text, *args))[
        1
    ]

    counts = [
        model.prepare(Parameters("a", "b"))[0],
        model.prepare(Parameters("a", "b", seed=3, steps=9))[0],
        model.prepare(Parameters("b", "c"))[0],
        model.prepare(Parameters("", ""))[0],
        model.prepare(Parameters("d", "not used", cfg_scale=1))[0],
    ]
    model.upscale([job(picture(8, 8), Parameters("a", "c", steps=1, seed=1))])

    assert counts == [2, 0, 1, 1, 1]
    assert sorted(encoded) == ["", "a", "b", "c", "d"]


def test_what_a_prompt_is_too_long_for_is_noted(model: LatentNetwork) -> None:
    # The small pipeline has a token for each letter, and two marks.
    longest, too_long = "a" * 75, "a" * 75 + "bcd"

    assert model.prepare(Parameters(longest, longest))[1] == ()
    _, notes = model.prepare(Parameters(too_long, longest + " xyz"))

    assert notes == (
        "negative_prompt_truncated: 80 tokens found, 77 allowed; left out: xyz",
        "prompt_truncated: 80 tokens found, 77 allowed; left out: bcd",
    )


def test_more_noise_than_the_network_knows_is_refused(own_pipeline: Path) -> None:
    change_config(own_pipeline, "model_index.json", max_noise_level=100)
    model = load(own_pipeline)

    for attempt in (
        lambda: model.prepare(Parameters(noise_level=101)),
        lambda: model.upscale([job(picture(8, 8), noise_level=101)]),
    ):
        with pytest.raises(
            ImageError, match="noise_level is 101; these weights take 0 to 100"
        ) as e:
            attempt()
        assert e.value.code is ErrorCode.INVALID_NOISE_LEVEL


@pytest.mark.parametrize("component", ["unet", "vae"])
def test_values_that_are_no_numbers_are_an_error(own_pipeline: Path, component: str) -> None:
    path = own_pipeline / component / "diffusion_pytorch_model.safetensors"
    weights = load_file(path)
    last = "decoder.conv_out.bias" if component == "vae" else "conv_out.bias"
    weights[last] = torch.full_like(weights[last], float("nan"))
    save_file(weights, path)

    with pytest.raises(ImageError, match="not a number") as caught:
        load(own_pipeline).upscale([job(picture(8, 8))])

    assert caught.value.code is ErrorCode.NOT_A_NUMBER


def test_decoding_in_strips_changes_a_level_at_most(
    tiny_pipeline: Path, model: LatentNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("beam_upscale.inference.networks.diffusion.vae.STRIP_PIXELS", 1000)
    jobs = [job(picture(32, 24)), job(picture(5, 40)), job(picture(1, 1))]

    in_strips = load(tiny_pipeline, vae_tiling=True).upscale(jobs)

    for result, whole_result in zip(in_strips, model.upscale(jobs), strict=True):
        assert np.abs(result.astype(int) - whole_result).max() <= 1


def test_a_decoder_that_cannot_be_cut_is_refused_when_it_is_loaded(own_pipeline: Path) -> None:
    small_autoencoder(up_block="AttnUpDecoderBlock2D").save_pretrained(own_pipeline / "vae")
    assert load(own_pipeline).upscale([job(picture(8, 8))])

    with pytest.raises(SettingsError, match="does not know the block AttnUpDecoder") as caught:
        load(own_pipeline, vae_tiling=True)

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("size", [(1, 98_304), (256, 384)], ids=str)
def test_large_images_take_memory_in_proportion_to_their_pixels(
    tiny_pipeline: Path, size: tuple[int, int]
) -> None:
    # A quarter of the most pixels that the engine takes, for a sixteenth of the time.
    width, height = size

    peak = peak_of_process(tiny_pipeline, width, height) - peak_of_process(tiny_pipeline, 64, 64)

    # A table of each pixel's attention to each other one would take 39 GB.
    assert peak < 1e9


def peak_of_process(folder: Path, width: int, height: int) -> int:
    """The most memory that a process held that upscaled one image in a step, in bytes."""
    code = f"""
import resource
from pathlib import Path
import numpy as np
from beam_upscale.planning.tile_layout import whole
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.diffusion.latent import Job, LatentNetwork
from beam_upscale.planning.parameters import Parameters

pixels = np.random.default_rng(0).integers(0, 256, ({height}, {width}, 3), np.uint8)
model = LatentNetwork.load(Path({str(folder)!r}), Device.CPU, Precision.FP32, threads=2)
job = Job(pixels, Parameters(steps=1, cfg_scale=1, seed=1), whole({width}, {height}))
(result,) = model.upscale([job])
assert result.shape == ({4 * height}, {4 * width}, 3) and result.std() > 5
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    process = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    # Linux counts in KiB, macOS in bytes.
    return int(process.stdout) * (1 if sys.platform == "darwin" else 1024)
