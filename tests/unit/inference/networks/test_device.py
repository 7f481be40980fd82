import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks import device
from beam_upscale.inference.networks.device import Device, Precision, settle


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine of which the test says what it has; nothing but a CPU without bf16 at first."""
    has = SimpleNamespace(cuda=False, cuda_bf16=True, mps=False, cpu={})
    monkeypatch.setattr(device, "_has_driver", lambda: has.cuda)
    monkeypatch.setattr(device, "_linux_flags", frozenset)
    monkeypatch.setattr(device, "sys", SimpleNamespace(platform="darwin"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has.cuda)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: has.cuda_bf16)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: has.mps)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: has.cpu)
    return has


def test_auto_takes_cuda_then_mps_then_the_cpu(machine: Any) -> None:
    assert settle(Device.AUTO, Precision.FP32)[0] is Device.CPU
    machine.mps = True
    assert settle(Device.AUTO, Precision.FP32)[0] is Device.MPS
    machine.cuda = True
    assert settle(Device.AUTO, Precision.FP32)[0] is Device.CUDA


@pytest.mark.parametrize(
    ("features", "expected"),
    [
        ({"avx512_f": True}, Precision.FP32),
        ({"avx512_bf16": False, "amx_bf16": False}, Precision.FP32),
        ({"avx512_bf16": True}, Precision.BF16),
        ({"amx_bf16": True}, Precision.BF16),
        ({"architecture": "arm64", "bf16": True}, Precision.BF16),
        ({"avx512_fp16": True}, Precision.FP32),
    ],
)
def test_auto_takes_bf16_on_a_cpu_that_has_it(
    machine: Any, features: dict[str, object], expected: Precision
) -> None:
    machine.cpu = features

    assert settle(Device.CPU, Precision.AUTO) == (Device.CPU, expected)


@pytest.mark.parametrize(
    ("supported", "expected"),
    [
        ({Precision.FP32, Precision.BF16, Precision.FP16}, Precision.FP16),
        ({Precision.FP32, Precision.BF16}, Precision.BF16),
        ({Precision.FP32}, Precision.FP32),
    ],
)
def test_auto_on_cuda_takes_what_the_network_supports(
    machine: Any, supported: set[Precision], expected: Precision
) -> None:
    machine.cuda = True

    assert settle(Device.AUTO, Precision.AUTO, supported) == (Device.CUDA, expected)


def test_auto_on_an_old_cuda_device_does_without_bf16(machine: Any) -> None:
    machine.cuda, machine.cuda_bf16 = True, False

    settled = settle(Device.CUDA, Precision.AUTO, {Precision.FP32, Precision.BF16})

    assert settled == (Device.CUDA, Precision.FP32)


def test_auto_on_mps_computes_in_fp32(machine: Any) -> None:
    machine.mps = True

    assert settle(Device.AUTO, Precision.AUTO) == (Device.MPS, Precision.FP32)


@pytest.mark.parametrize("device", [Device.CUDA, Device.MPS])
def test_a_device_that_is_not_there_is_refused(machine: Any, device: Device) -> None:
    with pytest.raises(SettingsError) as caught:
        settle(device, Precision.AUTO)

    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE
    assert f"The device {device} was requested; this machine has cpu" in caught.value.message


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
def test_a_precision_that_the_cpu_lacks_is_refused(machine: Any, precision: Precision) -> None:
    with pytest.raises(SettingsError) as caught:
        settle(Device.CPU, precision)

    assert caught.value.code is ErrorCode.PRECISION_UNAVAILABLE
    assert f"{precision} was requested, but the device cpu" in caught.value.message


def test_a_precision_that_the_network_lacks_is_refused(machine: Any) -> None:
    machine.cuda = True

    with pytest.raises(SettingsError) as caught:
        settle(Device.CUDA, Precision.FP16, {Precision.FP32, Precision.BF16})

    assert caught.value.code is ErrorCode.PRECISION_UNAVAILABLE
    assert "this network does not support it; available are fp32, bf16" in caught.value.message


def test_device_of_other_machines_is_taken_as_named(machine: Any) -> None:
    supported = {Precision.FP32, Precision.FP16}

    settled = settle(Device.CUDA, Precision.FP16, supported, elsewhere=True)

    assert settled == (Device.CUDA, Precision.FP16)
    with pytest.raises(SettingsError, match="The device cuda was requested"):
        settle(*settled, supported)  # As a worker does that has none.


def test_precision_of_another_machines_device_must_be_named(machine: Any) -> None:
    with pytest.raises(SettingsError, match=r"Name one, such as --precision fp16\.") as caught:
        settle(Device.CUDA, Precision.AUTO, elsewhere=True)

    assert caught.value.code is ErrorCode.DEVICE_UNAVAILABLE


def test_precision_that_the_network_lacks_is_refused_for_other_machines_too(machine: Any) -> None:
    with pytest.raises(SettingsError, match="available are fp32, bf16") as caught:
        settle(Device.CUDA, Precision.FP16, {Precision.FP32, Precision.BF16}, elsewhere=True)

    assert caught.value.code is ErrorCode.PRECISION_UNAVAILABLE


def test_what_is_not_named_is_settled_here_for_other_machines_too(machine: Any) -> None:
    machine.cuda = True

    assert settle(Device.AUTO, Precision.FP32, elsewhere=True) == (Device.CUDA, Precision.FP32)
    assert settle(Device.CUDA, Precision.AUTO, elsewhere=True) == (Device.CUDA, Precision.FP16)


def test_what_is_settled_is_settled(machine: Any) -> None:
    machine.cuda = True
    settled = settle(Device.AUTO, Precision.AUTO)

    assert settle(*settled) == settled
    machine.cuda = False
    with pytest.raises(SettingsError):
        settle(*settled)


@pytest.mark.parametrize("precision", [Precision.BF16, Precision.FP16])
def test_linux_tells_of_this_cpu_what_torch_tells(precision: Precision) -> None:
    assert device._told_by_linux(precision) in (None, device._told_by_torch(precision))


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        ("fpu sse2 avx2", False),
        ("fpu sse2 avx2 avx512f", None),  # Linux may be older than the CPU.
        ("fpu sse2 avx512f avx512_bf16", True),
        ("fpu sse2 avx512f amx_bf16", True),
        ("fp asimd", None),
        ("fp asimd bf16", True),
        ("", None),
    ],
)
def test_torch_is_asked_where_linux_does_not_tell_of_bf16(
    flags: str, told: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_linux_flags", lambda: frozenset(flags.split()))
    monkeypatch.setattr("platform.release", lambda: "5.10.0-23-cloud-amd64")

    assert device._told_by_linux(Precision.BF16) is told


@pytest.mark.parametrize(
    ("release", "told"),
    [("5.11.0-1022-aws", False), ("6.1.0", False), ("4.19.0", None), ("unknown", None)],
)
def test_a_linux_that_names_bf16_tells_that_a_cpu_has_none(
    release: str, told: bool | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "_linux_flags", lambda: {"sse2", "avx512f"})
    monkeypatch.setattr(device, "_has_driver", lambda: False)
    monkeypatch.setattr("platform.release", lambda: release)

    assert device._told_by_linux(Precision.BF16) is told
    assert device.needs_torch_to_settle() is (told is None or sys.platform == "darwin")


def test_linux_names_features_of_every_cpu() -> None:
    if sys.platform != "linux":
        pytest.skip("there is no /proc/cpuinfo")

    assert device._linux_flags() & {"sse2", "asimd"}


def test_without_a_driver_there_is_no_cuda_and_torch_is_not_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "_has_driver", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: pytest.fail("asked"))

    assert not device._has_cuda()


def test_torch_finds_no_device_where_no_driver_is_found() -> None:
    assert device._has_driver() or not torch.cuda.is_available()


def test_a_cpu_of_which_linux_tells_is_settled_without_torch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device, "_has_driver", lambda: False)
    monkeypatch.setattr(device, "sys", SimpleNamespace(platform="linux"))
    monkeypatch.setattr(device, "_linux_flags", lambda: {"sse2", "avx512f", "avx512_bf16"})
    monkeypatch.setattr(device, "_told_by_torch", lambda _: pytest.fail("asked"))

    assert settle(Device.AUTO, Precision.AUTO) == (Device.CPU, Precision.BF16)
