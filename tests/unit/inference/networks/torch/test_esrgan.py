import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from small_networks import compact, esrgan, noise
from spandrel import ImageModelDescriptor, MaskedImageModelDescriptor, ModelLoader
from spandrel.architectures.LaMa import LaMaArch
from torch import Tensor, nn

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.super_resolution import ImageBatch
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork, inspect
from beam_upscale.inference.networks.torch.networks import ResultStrip

Save = Callable[[nn.Module], Path]


def load(path: Path, precision: Precision = Precision.FP32) -> TorchNetwork:
    return TorchNetwork.load(path, Device.CPU, precision, threads=1)


def plain_result(path: Path, batch: ImageBatch) -> NDArray[np.int64]:
    """What spandrel's own descriptor gives for whole images, one by one."""
    descriptor = ModelLoader().load_from_file(path)
    assert isinstance(descriptor, ImageModelDescriptor)
    descriptor.model.to(memory_format=torch.channels_last)
    levels = int(np.iinfo(batch.dtype).max)
    results = []
    for image in batch:
        values = torch.from_numpy(image.astype(np.float32)).permute(2, 0, 1)[None] / levels
        result = descriptor(values.contiguous(memory_format=torch.channels_last))
        results.append((result[0] * levels).round().permute(1, 2, 0).numpy().astype(np.int64))
    return np.stack(results)


NETWORKS = {
    "esrgan x4": lambda: esrgan(4),
    "esrgan x2": lambda: esrgan(2),
    "esrgan x1": lambda: esrgan(1),
    "esrgan x8": lambda: esrgan(8),
    "esrgan two blocks": lambda: esrgan(4, blocks=2),
    "esrgan x2 with unshuffle": lambda: esrgan(2, shuffle=2),
    "esrgan plus": lambda: esrgan(4, plus=True),
    "compact x2": lambda: compact(2),
    "compact x4": lambda: compact(4),
}
SIZES = [(1, 1), (1, 9), (9, 1), (2, 3), (17, 23), (64, 40)]


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_fp32_result_is_the_plain_network_s(name: str, size: tuple[int, int], save: Save) -> None:
    path = save(NETWORKS[name]())
    batch = noise(1, *size, 3)

    result = load(path).upscale(batch)

    expected = plain_result(path, batch)
    assert result.dtype == np.uint8
    np.testing.assert_array_equal(result, expected)
    assert expected.std() > 5, "the network's result must be no flat color"


def test_sixteen_bits_stay_sixteen_bits(save: Save) -> None:
    path = save(esrgan(2))
    batch = noise(2, 20, 30, 3, dtype=np.uint16)

    result = load(path).upscale(batch)

    assert result.dtype == np.uint16
    np.testing.assert_array_equal(result, plain_result(path, batch))


@pytest.mark.skipif(
    not torch.cpu.get_capabilities().get("avx512_bf16"), reason="the CPU does not compute in bf16"
)
def test_bf16_keeps_the_tonal_steps_of_sixteen_bits(save: Save) -> None:
    path = save(esrgan(2))
    batch = noise(1, 40, 40, 3, dtype=np.uint16)

    result = load(path, Precision.BF16).upscale(batch)

    bright = result[(result > 2**15) & (result < 2**16 - 1)]
    # bf16 itself has 128 values between one half and one.
    assert len(np.unique(bright)) > 1000
    assert psnr(result, plain_result(path, batch), 65535) > 45


def psnr(result: ImageBatch, expected: NDArray[np.int64], levels: int) -> float:
    error = np.mean((result.astype(np.float64) - expected) ** 2)
    return float(10 * np.log10(levels**2 / error))


def test_no_image_depends_on_its_batch(save: Save) -> None:
    model = load(save(esrgan(4)))
    batch = noise(5, 24, 32, 3)
    order = np.random.default_rng(1).permutation(5)

    together = model.upscale(batch)

    np.testing.assert_array_equal(model.upscale(batch[order]), together[order])
    np.testing.assert_array_equal(model.upscale(batch[2:3]), together[2:3])


def test_grayscale_through_a_color_network_is_the_mean_of_its_channels(save: Save) -> None:
    path = save(esrgan(2))
    gray = noise(2, 12, 20, 1)

    result = load(path).upscale(gray)

    in_color = plain_result(path, np.repeat(gray, 3, axis=-1))
    assert result.shape == (2, 24, 40, 1)
    # The mean is taken before rounding.
    assert np.abs(result - in_color.mean(-1, keepdims=True)).max() <= 1


def test_color_through_a_grayscale_network_goes_channel_by_channel(save: Save) -> None:
    model = load(save(esrgan(2, channels=1)))
    color = noise(2, 12, 20, 3)

    result = model.upscale(color)

    assert result.shape == (2, 24, 40, 3)
    for channel in range(3):
        plane = color[..., channel : channel + 1]
        np.testing.assert_array_equal(result[..., channel : channel + 1], model.upscale(plane))


def test_model_says_what_it_is(save: Save) -> None:
    path = save(esrgan(2, shuffle=2))

    model = load(path)

    assert (model.architecture, model.scale) == ("ESRGAN", 2)
    assert (model.device, model.precision) == (Device.CPU, Precision.FP32)
    assert model.info == inspect(path)
    assert model.info.channels == 3
    assert model.info.precisions == {Precision.FP32, Precision.BF16, Precision.FP16}
    assert model.halo == model.info.halo


@pytest.mark.parametrize(
    ("network", "halo"),
    [
        # First convolution 1, a block 15, the body's last 1, the tail 1/2 + 3/4.
        (esrgan(4), 19),
        (esrgan(2, shuffle=2), 38),
        # Its reach would be 349.
        (esrgan(4, blocks=23), 96),
        (compact(2, convolutions=2), 4),
    ],
    ids=["esrgan", "esrgan with unshuffle", "esrgan of 23 blocks", "compact"],
)
def test_halo_follows_from_the_layers(network: nn.Module, halo: int, save: Save) -> None:
    assert inspect(save(network)).halo == halo


@pytest.mark.parametrize(
    "network", [esrgan(4), esrgan(2, shuffle=2), compact(2)], ids=["esrgan", "unshuffle", "compact"]
)
def test_a_tile_with_the_exact_halo_equals_the_whole(network: nn.Module, save: Save) -> None:
    model = load(save(network))
    halo, core = model.halo, 8
    image = noise(1, 2 * halo + 40, 2 * halo + 40, 3)
    start = 16

    whole = model.upscale(image)
    tile = image[:, start : start + 2 * halo + core, start : start + 2 * halo + core]
    result = model.upscale(tile)

    scale = model.scale
    inner = slice(halo * scale, (halo + core) * scale)
    outer = slice((start + halo) * scale, (start + halo + core) * scale)
    np.testing.assert_array_equal(result[:, inner, inner], whole[:, outer, outer])


def test_not_a_number_is_an_error_of_the_image(save: Save) -> None:
    network = esrgan(2)
    next(network.parameters()).data.fill_(float("nan"))

    with pytest.raises(ImageError) as caught:
        load(save(network)).upscale(noise(1, 8, 8, 3))

    assert caught.value.code is ErrorCode.NOT_A_NUMBER


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_infinity_is_noticed_before_it_is_clamped(value: float, save: Save) -> None:
    network = compact(2)
    last = list(network.parameters())[-1]
    last.data.fill_(value)

    with pytest.raises(ImageError) as caught:
        load(save(network)).upscale(noise(1, 8, 8, 3))

    assert caught.value.code is ErrorCode.NOT_A_NUMBER


@pytest.mark.parametrize(
    "batch",
    [noise(8, 8, 3), noise(1, 8, 8, 4), noise(1, 0, 8, 3), np.zeros((1, 8, 8, 3), np.float32)],
    ids=["no batch", "four channels", "no pixels", "float"],
)
def test_other_arrays_are_refused(batch: NDArray[np.uint8], save: Save) -> None:
    model = load(save(esrgan(2)))

    with pytest.raises(ValueError, match="expected"):
        model.upscale(batch)


def test_pth_of_real_esrgan_s_form_loads(tmp_path: Path) -> None:
    network = esrgan(2)
    path = tmp_path / "weights.pth"
    torch.save({"params_ema": network.state_dict()}, path)

    assert inspect(path).scale == 2


@pytest.mark.parametrize("name", ["weights.pth", "weights.safetensors", "weights.pt"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"PK\x03\x04 half a zip"])
def test_damaged_files_are_unusable(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)

    with pytest.raises(SettingsError) as caught:
        inspect(path)

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE
    assert str(path) in caught.value.message


def test_missing_file_is_unusable(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        inspect(tmp_path / "weights.pth")

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE


def test_two_channels_are_unusable(save: Save) -> None:
    with pytest.raises(SettingsError) as caught:
        inspect(save(esrgan(2, channels=2)))

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE
    assert "it takes 2 channels and gives 2" in caught.value.message


def test_a_network_that_fills_holes_is_unusable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = nn.Conv2d(3, 3, 3)
    inpainting = MaskedImageModelDescriptor(
        network,
        network.state_dict(),
        LaMaArch(),
        purpose="Inpainting",
        tags=[],
        supports_half=True,
        supports_bfloat16=True,
        input_channels=3,
        output_channels=3,
    )
    monkeypatch.setattr(ModelLoader, "load_from_state_dict", lambda *_: inpainting)
    torch.save(network.state_dict(), tmp_path / "lama.pth")

    with pytest.raises(SettingsError) as caught:
        inspect(tmp_path / "lama.pth")

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE
    assert "LaMa is not a super-resolution network" in caught.value.message


class Enlarging:
    """A network in strips that repeats pixels, and has memory for so many pixels at once."""

    halo = 0
    batches = True

    def __init__(self, memory: int, shrinks: bool = True) -> None:
        self.memory = memory
        self.shrinks = shrinks
        self.passes: list[tuple[int, int]] = []

    def run(self, images: Tensor, strip_pixels: int) -> Iterator[ResultStrip]:
        count, _, height, width = images.shape
        self.passes.append((count, strip_pixels))
        if count * min(strip_pixels, height * width) > self.memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nMore.")
        yield ResultStrip(images.repeat_interleave(2, 2).repeat_interleave(2, 3))


def model_of(network: Enlarging, save: Save, monkeypatch: pytest.MonkeyPatch) -> TorchNetwork:
    info = inspect(save(esrgan(2)))
    model = TorchNetwork(info, network, Device.CPU, Precision.FP32, threads=1)
    monkeypatch.setattr(TorchNetwork, "_shares_passes", True)
    return model


def test_a_pass_has_its_model_s_threads_in_a_thread_that_another_model_has_used(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Counting(Enlarging):
        def run(self, images: Tensor, strip_pixels: int) -> Iterator[ResultStrip]:
            found.append(torch.get_num_threads())
            return super().run(images, strip_pixels)

    found: list[int] = []
    first, second = (model_of(Counting(10**6), save, monkeypatch) for _ in range(2))
    second.threads = 2
    with ThreadPoolExecutor(1) as executor:
        for model in (first, second, first):
            executor.submit(model.upscale, noise(1, 8, 8, 3)).result()

    assert found == [1, 2, 1]


def test_out_of_memory_halves_the_batch_and_goes_on(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Enlarging(memory=2 * 32 * 32)
    batch = noise(5, 32, 32, 3)

    result = model_of(network, save, monkeypatch).upscale(batch)

    np.testing.assert_array_equal(result, batch.repeat(2, axis=1).repeat(2, axis=2))
    assert [count for count, _ in network.passes] == [5, 3, 2, 1, 2]
    assert len({strip_pixels for _, strip_pixels in network.passes}) == 1


def test_out_of_memory_with_one_image_halves_the_strips(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Enlarging(memory=10_000)
    batch = noise(1, 200, 300, 3)

    result = model_of(network, save, monkeypatch).upscale(batch)

    np.testing.assert_array_equal(result, batch.repeat(2, axis=1).repeat(2, axis=2))
    assert [strip_pixels for _, strip_pixels in network.passes] == [
        2**18,
        2**17,
        2**16,
        2**15,
        2**14,
        2**13,
    ]


@pytest.mark.parametrize("shrinks", [True, False])
def test_an_image_that_never_fits_is_an_error(
    shrinks: bool, save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = model_of(Enlarging(memory=10, shrinks=shrinks), save, monkeypatch)

    with pytest.raises(ImageError) as caught:
        model.upscale(noise(2, 50, 100, 3))

    assert caught.value.code is ErrorCode.OUT_OF_MEMORY
    assert "100 x 50 pixels" in caught.value.message
    assert "More." not in caught.value.message


def test_other_errors_of_the_network_are_not_taken_for_memory(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = Enlarging(memory=10_000)
    monkeypatch.setattr(network, "run", lambda *_: (_ for _ in ()).throw(RuntimeError("shape")))

    with pytest.raises(RuntimeError, match="shape"):
        model_of(network, save, monkeypatch).upscale(noise(1, 8, 8, 3))


def test_one_pass_at_a_time(save: Save) -> None:
    model = load(save(esrgan(2)))
    running, most = 0, 0
    guard = threading.Lock()
    run = model.network.run

    def counting(images: Tensor, strip_pixels: int) -> Iterator[ResultStrip]:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        yield from run(images, strip_pixels)
        with guard:
            running -= 1

    model.network.run = counting  # type: ignore[method-assign]
    batch = noise(8, 16, 16, 3)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda image: model.upscale(image[None])[0], batch))

    assert most == 1
    np.testing.assert_array_equal(np.stack(results), model.upscale(batch))
