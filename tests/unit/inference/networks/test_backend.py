"""Which library computes a network."""

import pytest

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks.backend import NetworkBackend, settle
from beam_upscale.inference.networks.device import Device, Precision

CHOICES = [
    (Device.CPU, Precision.BF16, True, "x86_64", NetworkBackend.OPENVINO),
    (Device.CPU, Precision.FP32, True, "AMD64", NetworkBackend.OPENVINO),
    (Device.CPU, Precision.FP32, True, "aarch64", NetworkBackend.TORCH),
    (Device.CPU, Precision.FP16, True, "x86_64", NetworkBackend.TORCH),
    (Device.CPU, Precision.BF16, False, "x86_64", NetworkBackend.TORCH),
    (Device.CUDA, Precision.BF16, True, "x86_64", NetworkBackend.TORCH),
    (Device.MPS, Precision.FP32, True, "arm64", NetworkBackend.TORCH),
]


@pytest.mark.parametrize(("device", "precision", "is_known", "machine", "expected"), CHOICES)
def test_auto_takes_openvino_where_it_is_best(
    device: Device,
    precision: Precision,
    is_known: bool,
    machine: str,
    expected: NetworkBackend,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("platform.machine", lambda: machine)

    for asked in (NetworkBackend.AUTO, expected):
        assert settle(asked, device, precision, is_known=is_known) is expected
    assert (
        settle(NetworkBackend.TORCH, device, precision, is_known=is_known) is NetworkBackend.TORCH
    )
    if expected is NetworkBackend.TORCH and machine == "x86_64":
        with pytest.raises(SettingsError, match="OpenVINO was requested, but") as caught:
            settle(NetworkBackend.OPENVINO, device, precision, is_known=is_known)
        assert caught.value.code is ErrorCode.NETWORK_BACKEND_UNAVAILABLE


def test_without_openvino_auto_takes_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)

    found = settle(NetworkBackend.AUTO, Device.CPU, Precision.FP32, is_known=True)

    assert found is NetworkBackend.TORCH
    with pytest.raises(SettingsError, match="not installed"):
        settle(NetworkBackend.OPENVINO, Device.CPU, Precision.FP32, is_known=True)
