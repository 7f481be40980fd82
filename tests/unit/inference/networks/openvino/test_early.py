"""Networks whose loading begins before they are needed."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_networks import esrgan, noise
from torch import nn

pytest.importorskip("openvino")

from beam_upscale.inference.networks.device import Precision
from beam_upscale.inference.networks.openvino import early
from beam_upscale.inference.networks.openvino.early import Wanted, loading, take
from beam_upscale.inference.networks.openvino.network import OpenVinoNetwork
from beam_upscale.inference.weights.digest import sha256_of

Save = Callable[[nn.Module], Path]


def wanted(path: Path, precision: Precision = Precision.FP32, threads: int = 1) -> Wanted:
    return Wanted(sha256_of(path), precision, threads)


def test_a_network_is_given_once(save: Save) -> None:
    path, batch = save(esrgan(2)), noise(1, 9, 7, 3)

    with loading(path, wanted(path)):
        found = take(wanted(path))
        assert take(wanted(path)) is None

    assert found is not None
    expected = OpenVinoNetwork.load(path, Precision.FP32, 1).upscale(batch)
    np.testing.assert_array_equal(found.upscale(batch), expected)


@pytest.mark.parametrize(
    "change", [{"sha256": "0" * 64}, {"precision": Precision.BF16}, {"threads": 2}, None], ids=str
)
def test_a_network_that_is_not_needed_is_dropped(change: Any, save: Save) -> None:
    path = save(esrgan(2))
    needed = None if change is None else dataclasses.replace(wanted(path), **change)

    with loading(path, wanted(path)):
        assert take(needed) is None
        assert early._begun == {}


def test_nothing_keeps_a_network_that_is_not_taken(save: Save) -> None:
    path = save(esrgan(2))

    with loading(path, wanted(path)):
        pass

    assert take(wanted(path)) is None
    assert early._begun == {}


def test_a_file_that_is_made_again_meanwhile_is_not_taken_for_the_good_one(save: Save) -> None:
    path = save(esrgan(2))
    good, damaged = path.read_bytes(), bytearray(path.read_bytes())
    damaged[-2] ^= 1
    sha256 = hashlib.sha256(good).hexdigest()
    path.write_bytes(damaged)

    with loading(path, Wanted(sha256, Precision.FP32, 1)):
        early._begun[Wanted(sha256, Precision.FP32, 1)].exception()
        path.write_bytes(good)
        assert take(Wanted(sha256, Precision.FP32, 1)) is None


def test_a_network_that_cannot_be_loaded_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    path.write_bytes(b"no weights")

    with loading(path, wanted(path)):
        assert take(wanted(path)) is None
