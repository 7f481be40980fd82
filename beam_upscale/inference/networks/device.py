"""Chooses the device and the floating-point precision that a network runs with.

PyTorch is imported only if the operating system does not give the answer: the import takes longer
than a small network runs.
"""

import ctypes
import platform
import re
import sys
from collections.abc import Collection, Mapping
from enum import StrEnum
from pathlib import Path

from beam_upscale.errors import ErrorCode, SettingsError


class Device(StrEnum):
    """The device that a network runs on."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Precision(StrEnum):
    """The floating-point type of a network's weights and intermediate results."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


# CPU features that multiply in the type, by their names in `torch.cpu.get_capabilities`; the last
# name in each row is ARM's.
_CPU_FEATURES = {
    Precision.BF16: ("avx512_bf16", "amx_bf16", "avx10_2", "bf16"),
    Precision.FP16: ("avx512_fp16", "amx_fp16", "avx10_2", "fp16_arith"),
}

# Files of the drivers of NVIDIA's and AMD's devices on Linux, also in WSL and on Jetson.
_DRIVER_FILES = ("/dev/kfd", "/dev/nvidiactl", "/dev/nvhost-gpu", "/dev/nvgpu", "/dev/dxg")

# fp16 comes first because its 11 significant bits come closer to fp32 than the 8 of bf16.
_AUTO_ORDER = {
    Device.CUDA: (Precision.FP16, Precision.BF16, Precision.FP32),
    Device.CPU: (Precision.BF16, Precision.FP32),
    Device.MPS: (Precision.FP32,),
}


def settle(
    device: Device,
    precision: Precision,
    supported: Collection[Precision] = frozenset(Precision),
    *,
    elsewhere: bool = False,
) -> tuple[Device, Precision]:
    """Replaces `auto` by this machine's best choice; checks a device and a precision given by name.

    A device is chosen in the order CUDA, MPS, CPU. A precision is chosen for speed where at least
    45 dB against fp32 is kept: on CUDA fp16, else bf16; on a CPU bf16 where the CPU multiplies in
    it, else fp32; on MPS fp32. A returned pair, given again, is returned unchanged on a machine
    that supports it and rejected on one that does not.

    Args:
        device: the requested device.
        precision: the requested precision.
        supported: the precisions that the network itself supports.
        elsewhere: True if the network runs on other machines, which each settle the returned pair
            again. A device and a precision that are both named are then not checked on this one.

    Returns:
        The device and the precision, neither of them `auto`.

    Raises:
        SettingsError: `DEVICE_UNAVAILABLE` or `PRECISION_UNAVAILABLE`.
    """
    if elsewhere and device is not Device.AUTO and _is_settled_elsewhere(device, precision):
        _require_support(precision, supported)
        return device, precision
    settled_device = _settle_device(device)
    return settled_device, _settle_precision(settled_device, precision, supported)


def _is_settled_elsewhere(device: Device, precision: Precision) -> bool:
    """Checks whether a named device needs no further settling here, as the precision is named too.

    Raises:
        SettingsError: `DEVICE_UNAVAILABLE`, the precision is `auto`, and this machine lacks the
            device that decides on it.
    """
    if precision is not Precision.AUTO:
        return True
    available = _available_devices()
    if device not in available:
        raise SettingsError(
            ErrorCode.DEVICE_UNAVAILABLE,
            f"The device {device} is the workers' and not this machine's, which has "
            f"{', '.join(available)}: it cannot tell which precision suits them. Name one, such as "
            f"--precision {_AUTO_ORDER[device][0]}.",
        )
    return False


def needs_torch_to_settle() -> bool:
    """Checks whether `settle` may import PyTorch on this machine, for a CPU too."""
    return _has_driver() or sys.platform == "darwin" or _told_by_linux(Precision.BF16) is None


def _available_devices() -> list[Device]:
    """Lists the devices of this machine, the best first."""
    available = [Device.CPU]
    if _has_mps():
        available.insert(0, Device.MPS)
    if _has_cuda():
        available.insert(0, Device.CUDA)
    return available


def _settle_device(device: Device) -> Device:
    available = _available_devices()
    if device is Device.AUTO:
        return available[0]
    if device not in available:
        raise SettingsError(
            ErrorCode.DEVICE_UNAVAILABLE,
            f"The device {device} was requested; this machine has {', '.join(available)}. "
            f"Use --device {available[0]} or --device auto.",
        )
    return device


def _require_support(precision: Precision, supported: Collection[Precision]) -> None:
    if precision is not Precision.FP32 and precision not in supported:
        possible = [each for each in Precision if each is Precision.FP32 or each in supported]
        raise SettingsError(
            ErrorCode.PRECISION_UNAVAILABLE,
            f"The precision {precision} was requested, but this network does not support it; "
            f"available are {', '.join(possible)}. Use one of these.",
        )


def _settle_precision(
    device: Device, precision: Precision, supported: Collection[Precision]
) -> Precision:
    def is_possible(choice: Precision) -> bool:
        return choice is Precision.FP32 or (choice in supported and _computes_in(device, choice))

    if precision is Precision.AUTO:
        return next(choice for choice in _AUTO_ORDER[device] if is_possible(choice))
    if not is_possible(precision):
        possible = filter(is_possible, (Precision.FP32, Precision.BF16, Precision.FP16))
        reason = (
            f"the device {device} does not compute in it"
            if precision in supported
            else "this network does not support it"
        )
        raise SettingsError(
            ErrorCode.PRECISION_UNAVAILABLE,
            f"The precision {precision} was requested, but {reason}; available are "
            f"{', '.join(possible)}. Use one of these or --precision auto.",
        )
    return precision


def _has_cuda() -> bool:
    if not _has_driver():
        return False
    import torch

    return torch.cuda.is_available()


def _has_driver() -> bool:
    """Checks whether a CUDA or ROCm driver may exist; without one PyTorch finds no device."""
    match sys.platform:
        case "darwin":
            return False
        case "linux":
            return any(Path(each).exists() for each in _DRIVER_FILES) or _loads("libcuda.so.1")
        case "win32":
            return _loads("nvcuda.dll") or _loads("amdhip64.dll")
        case _:
            return True


def _loads(library: str) -> bool:
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _has_mps() -> bool:
    if sys.platform != "darwin":
        return False
    import torch

    return torch.backends.mps.is_available()


def _computes_in(device: Device, precision: Precision) -> bool:
    """Checks whether the device multiplies in bf16 or fp16 natively, not by emulation."""
    if device is Device.CPU:
        told = _told_by_linux(precision)
        return _told_by_torch(precision) if told is None else told
    if device is Device.CUDA and precision is Precision.BF16:
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return True


def _told_by_linux(precision: Precision) -> bool | None:
    """Reads from Linux whether the CPU multiplies in a type; None if Linux does not tell.

    A kernel older than a CPU feature may not name it. But an x86 CPU without AVX-512 has none of
    these features, and one with AMX's variant of a type has that of AVX-512 as well.
    """
    flags = _linux_flags()
    if not flags.isdisjoint(_CPU_FEATURES[precision]):
        return True
    names_avx_512 = _kernel() >= _NAMES_AVX_512
    return False if "sse2" in flags and ("avx512f" not in flags or names_avx_512) else None


# The first Linux that names AVX-512's bf16 and fp16.
_NAMES_AVX_512 = (5, 11)


def _kernel() -> tuple[int, ...]:
    """Returns the first two numbers of the version of this kernel; none if it does not tell."""
    found = re.match(r"(\d+)\.(\d+)", platform.release())
    return tuple(map(int, found.groups())) if found else ()


def _linux_flags() -> frozenset[str]:
    """Returns the features of the first CPU as Linux names them; empty on other systems."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8", errors="replace") as lines:
            for line in lines:
                name, _, values = line.partition(":")
                if name.strip() in ("flags", "Features"):
                    return frozenset(values.split())
    except OSError:
        pass
    return frozenset()


def _told_by_torch(precision: Precision) -> bool:
    features = _cpu_features()
    return any(features.get(name) is True for name in _CPU_FEATURES[precision])


def _cpu_features() -> Mapping[str, object]:
    import torch

    # A torch without this function counts as a CPU without these types: slower, but correct.
    tell = getattr(torch.cpu, "get_capabilities", dict)
    features: Mapping[str, object] = tell()
    return features
