"""What is known without PyTorch is what spandrel finds; all else is left to spandrel."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from small_networks import compact, esrgan
from torch import nn

from beam_upscale.inference.networks.recognition import NetworkInfo, recognize
from beam_upscale.inference.networks.torch.esrgan import inspect
from beam_upscale.inference.networks.weight_files import read_arrays, read_shapes

Save = Callable[[nn.Module], Path]
State = dict[str, torch.Tensor]

NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "esrgan x4": lambda: esrgan(4),
    "esrgan x2": lambda: esrgan(2),
    "esrgan x1": lambda: esrgan(1),
    "esrgan x8, three blocks": lambda: esrgan(8, blocks=3),
    "esrgan for gray": lambda: esrgan(4, channels=1),
    "esrgan x2 with unshuffle": lambda: esrgan(2, shuffle=2),
    "esrgan x1 with unshuffle by 4": lambda: esrgan(1, shuffle=4),
    "compact x2": lambda: compact(2),
    "compact x3": lambda: compact(3),
    "compact x4": lambda: compact(4, convolutions=5),
    "compact without a body": lambda: compact(2, convolutions=0),
}


def info_of(path: Path) -> NetworkInfo | None:
    found = recognize(read_shapes(path) or {})
    return found and found.info


@pytest.mark.parametrize("name", NETWORKS)
def test_known_networks_are_what_spandrel_finds(name: str, save: Save) -> None:
    path = save(NETWORKS[name]())

    assert info_of(path) == inspect(path)


def real_esrgan(state: State) -> State:
    """The names of Real-ESRGAN for weights that have those of the first ESRGAN."""
    return _renamed(
        state, r"body.\1.rdb\2.conv\3", ("conv_first", "conv_body", "conv_up", "conv_hr")
    )


def bsrgan(state: State) -> State:
    """The names of BSRGAN for the same."""
    return _renamed(
        state, r"RRDB_trunk.\1.RDB\2.conv\3", ("conv_first", "trunk_conv", "upconv", "HRconv")
    )


def _renamed(state: State, dense: str, names: tuple[str, str, str, str]) -> State:
    first, body, up, high = names
    table = [
        (r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0", dense),
        (r"model\.1\.sub\.\d+", body),
        (r"model\.0", first),
        (r"model\.3", f"{up}1"),
        (r"model\.6", f"{up}2"),
        (r"model\.8", high),
        (r"model\.10", "conv_last"),
    ]
    renamed = {}
    for name, values in state.items():
        layer, _, field = name.rpartition(".")
        found = next(new for old, new in table if re.fullmatch(old, layer))
        old = next(old for old, new in table if new == found)
        renamed[f"{re.sub(old, found, layer)}.{field}"] = values
    return renamed


@pytest.mark.parametrize("rename", [real_esrgan, bsrgan])
@pytest.mark.parametrize("form", ["plain", "module.", "params_ema"])
def test_all_names_of_one_networks_weights_are_known(
    rename: Callable[[State], State], form: str, tmp_path: Path, save: Save
) -> None:
    network = esrgan(4, blocks=2)
    state = rename(network.state_dict())
    if form == "module.":
        state = {f"module.{name}": values for name, values in state.items()}
    path = tmp_path / "weights.pth"
    torch.save({"params_ema": state} if form == "params_ema" else state, path)

    assert info_of(path) is not None
    assert info_of(path) == info_of(save(network))
    assert info_of(path) == inspect(path)
    assert read_arrays(path).keys() == (read_shapes(path) or {}).keys()


@pytest.mark.parametrize("name", ["esrgan x4", "esrgan x2 with unshuffle", "compact x2"])
def test_what_does_not_fit_to_the_last_shape_is_left_to_spandrel(name: str) -> None:
    shapes = {key: tuple(v.shape) for key, v in NETWORKS[name]().state_dict().items()}
    assert recognize(shapes) is not None

    for key, shape in shapes.items():
        assert recognize({k: v for k, v in shapes.items() if k != key}) is None, key
        assert recognize({**shapes, key: (*shape[:-1], shape[-1] + 1)}) is None, key
        assert recognize({**shapes, key: ()}) is None, key
    assert recognize({**shapes, "further.weight": (1,)}) is None


def test_networks_that_only_look_alike_are_left_to_spandrel(save: Save, tmp_path: Path) -> None:
    assert info_of(save(esrgan(4, plus=True))) is None
    assert recognize({}) is None
    for data in (b"", b"\xff" * 8, b"\x02" + bytes(7) + b"[]", b"\x04" + bytes(7) + b"null"):
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(data)
        assert read_shapes(path) is None
    (tmp_path / "damaged.pth").write_bytes(b"no zip")
    assert read_shapes(tmp_path / "damaged.pth") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_type_of_weights_is_read_to_the_bit(dtype: torch.dtype, save: Save) -> None:
    network = compact(2).to(dtype)

    arrays = read_arrays(save(network))

    for name, values in network.state_dict().items():
        np.testing.assert_array_equal(arrays[name], values.float().numpy(), name)
