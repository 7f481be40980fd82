"""Graphs for OpenVINO."""

import numpy as np

from beam_upscale.inference.networks.openvino import graphs


def test_weights_are_split_into_numbers_of_bf16_and_lose_nothing() -> None:
    values = np.random.default_rng(0).normal(size=1000).astype(np.float32)

    parts = graphs._split(values, 3)

    assert all(np.all(part.view(np.uint32) & 0xFFFF == 0) for part in parts)
    np.testing.assert_array_equal(sum(reversed(parts)), values)
    assert graphs._split(values, 1)[0] is values
