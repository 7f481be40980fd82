"""Networks on OpenVINO give what they give on PyTorch, whatever else is run."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import compact, esrgan, noise
from torch import nn
from torch.nn import functional

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.inference.networks.device import Device, Precision
from beam_upscale.inference.networks.openvino import graphs, network, runtime
from beam_upscale.inference.networks.openvino.network import OpenVinoNetwork
from beam_upscale.inference.networks.super_resolution import ImageBatch
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork

Save = Callable[[nn.Module], Path]
NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "esrgan x4": lambda: esrgan(4),
    "esrgan x1": lambda: esrgan(1),
    "esrgan x8, two blocks": lambda: esrgan(8, blocks=2),
    "esrgan for gray": lambda: esrgan(4, channels=1),
    "esrgan x2 with unshuffle": lambda: esrgan(2, shuffle=2),
    "compact x2": lambda: compact(2),
    "compact x3": lambda: compact(3),
}
SHAPES = [(1, 1, 3), (1, 9, 1), (2, 3, 3), (17, 23, 3), (64, 40, 1)]


def load(path: Path, precision: Precision = Precision.FP32, threads: int = 1) -> OpenVinoNetwork:
    return OpenVinoNetwork.load(path, precision, threads)


def differences(result: ImageBatch, expected: ImageBatch) -> np.ndarray:
    assert (result.shape, result.dtype) == (expected.shape, expected.dtype)
    return np.abs(result.astype(np.int64) - expected)


@pytest.mark.parametrize("name", NETWORKS)
def test_fp32_results_are_within_a_level_of_pytorchs(name: str, save: Save) -> None:
    path = save(NETWORKS[name]())
    model, reference = load(path), TorchNetwork.load(path, Device.CPU, Precision.FP32, threads=1)

    assert model.info == reference.info
    found = [differences(model.upscale(b), reference.upscale(b)) for b in map(_noise, SHAPES)]

    assert max(each.max() for each in found) <= 1
    everywhere = np.concatenate([each.ravel() for each in found])
    assert np.mean(everywhere == 0) > 0.999


def test_the_last_convolution_is_as_exact_as_in_fp32() -> None:
    random = np.random.default_rng(0)
    kernel = random.normal(size=(3, 64, 3, 3)).astype(np.float32)
    bias = random.normal(size=3).astype(np.float32)
    # Small whole numbers, which bf16 has.
    features = random.integers(-64, 64, (1, 64, 20, 30)).astype(np.float32)
    layers = graphs._Layers({"last.weight": kernel, "last.bias": bias})
    image = graphs.image_input(64)
    graph = runtime.openvino.Model([layers.split_convolution("last", image, 3)], [image])
    total = graphs.Sum(3, layers.bias("last"))

    compiled = network.Compiler(1).compile(graph, Precision.BF16)
    found = total.of(compiled(features))

    expected = functional.conv2d(
        *(torch.from_numpy(each).double() for each in (features, kernel, bias)), padding=1
    ).numpy()
    # A sum of 576 products in bf16 would be off by more than 1.
    assert np.abs(found - expected).max() < 0.005


def _noise(shape: tuple[int, int, int]) -> ImageBatch:
    return noise(1, *shape)


@pytest.mark.parametrize("name", ["esrgan x4", "esrgan x2 with unshuffle", "compact x2"])
@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_results_depend_on_nothing_but_their_image(
    name: str, precision: Precision, save: Save
) -> None:
    path = save(NETWORKS[name]())
    batch, others = noise(4, 24, 32, 3), [noise(1, 7, 9, 3), noise(2, 40, 16, 1)]
    order = np.random.default_rng(1).permutation(4)
    model, of_two_threads = load(path, precision), load(path, precision, threads=2)

    expected = model.upscale(batch)

    np.testing.assert_array_equal(model.upscale(batch[order]), expected[order])
    np.testing.assert_array_equal(of_two_threads.upscale(batch[1:2]), expected[1:2])
    np.testing.assert_array_equal(load(path, precision).upscale(batch[2:]), expected[2:])
    with ThreadPoolExecutor(3) as pool:
        several = [batch[n : n + 1] for n in range(4)] + others
        results = list(pool.map(model.upscale, several * 2))
    np.testing.assert_array_equal(np.concatenate(results[:4]), expected)
    np.testing.assert_array_equal(np.concatenate(results[6:10]), expected)


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
@pytest.mark.parametrize("shape", [(90, 40, 3), (40, 90, 3), (33, 33, 1)], ids=str)
def test_results_do_not_depend_on_how_memory_is_saved(
    shape: tuple[int, int, int],
    precision: Precision,
    save: Save,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path, batch = save(esrgan(4)), noise(1, *shape)
    expected = load(path, precision).upscale(batch)

    monkeypatch.setattr(network, "_TAIL_PIXELS", 1000)
    monkeypatch.setattr(network, "_TRUNK_PIXELS", 500)
    model = load(path, precision)
    found = differences(model.upscale(batch), expected)

    # oneDNN may sum in another order for another shape, and what lies between two graphs is rounded
    # to bf16 once more.
    assert found.max() <= (1 if precision is Precision.FP32 else 3)
    assert np.mean(found == 0) > (0.99 if precision is Precision.FP32 else 0.8)
    np.testing.assert_array_equal(model.upscale(batch), model.upscale(batch))


def test_bf16_keeps_the_tonal_steps_of_sixteen_bits(save: Save) -> None:
    path, batch = save(esrgan(4)), noise(1, 40, 40, 3, dtype=np.uint16)

    result = load(path, Precision.BF16).upscale(batch)

    bright = result[(result > 2**15) & (result < 2**16 - 1)]
    # bf16 itself has 128 values between one half and one.
    assert len(np.unique(bright)) > 1000


def test_values_that_are_no_numbers_are_told(save: Save) -> None:
    for small in (esrgan(4), compact(2)):
        with torch.no_grad():
            next(small.parameters()).fill_(float("inf"))
        with pytest.raises(ImageError) as caught:
            load(save(small)).upscale(noise(1, 8, 8, 3))
        assert caught.value.code is ErrorCode.NOT_A_NUMBER


def test_images_without_memory_for_them_are_told(
    save: Save, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("std::bad_alloc")

    model = load(save(compact(2)))
    monkeypatch.setattr(model, "_tail", fail)

    with pytest.raises(ImageError, match="8 x 9") as caught:
        model.upscale(noise(1, 9, 8, 3))
    assert caught.value.code is ErrorCode.OUT_OF_MEMORY


def test_other_networks_are_refused_by_name(save: Save) -> None:
    with pytest.raises(SettingsError, match="--network-backend torch") as caught:
        load(save(esrgan(4, plus=True)))
    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE


def test_signals_are_taken_once_a_network_is_gone(save: Save) -> None:
    code = (
        "import faulthandler, os, signal, sys, threading, numpy as np; from pathlib import Path\n"
        "from beam_upscale.inference.networks.openvino.network import OpenVinoNetwork\n"
        "from beam_upscale.inference.networks.device import Precision\n"
        "faulthandler.enable()\n"
        "signal.signal(signal.SIGINT, lambda *_: print('taken'))\n"
        "models = [OpenVinoNetwork.load(Path(sys.argv[1]), Precision.FP32, 1)]\n"
        "models[0].upscale(np.zeros((1, 8, 8, 3), np.uint8))\n"
        "thread = threading.Thread(target=models.clear)\n"
        "thread.start(); thread.join()\n"
        "os.kill(os.getpid(), signal.SIGINT)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(save(esrgan(2)))], capture_output=True, text=True
    )

    assert (done.returncode, done.stdout) == (0, "taken\n")


def test_neither_pytorch_nor_telemetry_is_imported(save: Save) -> None:
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "from beam_upscale.inference.networks.openvino.network import OpenVinoNetwork\n"
        "from beam_upscale.inference.networks.device import Precision\n"
        "model = OpenVinoNetwork.load(Path(sys.argv[1]), Precision.FP32, 1)\n"
        "model.upscale(np.zeros((1, 8, 8, 3), np.uint8))\n"
        "print(*sorted({name.partition('.')[0] for name in sys.modules}))\n"
    )
    path = save(esrgan(4))
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True
    )

    imported = set(done.stdout.split())
    assert "openvino" in imported
    assert not imported & {"torch", "torchvision", "spandrel", "openvino_telemetry", "apache_beam"}
