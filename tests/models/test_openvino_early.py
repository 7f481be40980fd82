"""Networks whose loading begins before they are needed."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from small_networks import esrgan, noise
from torch import nn

pytest.importorskip("openvino")

from beam_upscale.models import openvino_early
from beam_upscale.models.device import Precision
from beam_upscale.models.openvino_early import loading, take
from beam_upscale.models.openvino_network import OpenVinoModel

Save = Callable[[nn.Module], Path]


def test_a_network_is_given_once(save: Save) -> None:
    path, batch = save(esrgan(2)), noise(1, 9, 7, 3)

    with loading(path, Precision.FP32, 1):
        found = take(path, Precision.FP32, 1)
        assert take(path, Precision.FP32, 1) is None

    assert found is not None
    expected = OpenVinoModel.load(path, Precision.FP32, 1).upscale(batch)
    np.testing.assert_array_equal(found.upscale(batch), expected)


def test_no_other_network_is_given(save: Save) -> None:
    path = save(esrgan(2))
    other = path.with_name("other.safetensors")

    with loading(path, Precision.FP32, 1):
        assert take(other, Precision.FP32, 1) is None
        assert take(path, Precision.BF16, 1) is None
        assert take(path, Precision.FP32, 2) is None


def test_nothing_keeps_a_network_that_is_not_taken(save: Save) -> None:
    path = save(esrgan(2))

    with loading(path, Precision.FP32, 1):
        pass

    assert take(path, Precision.FP32, 1) is None
    assert openvino_early._begun == {}


def test_a_network_that_cannot_be_loaded_is_not_given(tmp_path: Path) -> None:
    path = tmp_path / "network.safetensors"
    path.write_bytes(b"no weights")

    with loading(path, Precision.FP32, 1):
        assert take(path, Precision.FP32, 1) is None
