"""Chooses the library that runs a super-resolution network."""

import importlib.util
import platform
from enum import StrEnum

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.networks.device import Device, Precision


class NetworkBackend(StrEnum):
    """The library that runs a super-resolution network."""

    AUTO = "auto"
    TORCH = "torch"
    OPENVINO = "openvino"

    @property
    def library(self) -> str:
        """The library's name as its makers write it."""
        return {"torch": "PyTorch", "openvino": "OpenVINO"}.get(self.value, self.value)


_X86_64 = frozenset({"x86_64", "amd64"})

_OPENVINO_PRECISIONS = frozenset({Precision.FP32, Precision.BF16})
"""The precisions that OpenVINO is used for; its fp16 is slower on a CPU than its fp32."""


def settle(
    backend: NetworkBackend, device: Device, precision: Precision, *, is_known: bool
) -> NetworkBackend:
    """Replaces `auto` by the best backend for a network, and checks one that is named.

    `auto` is OpenVINO where that is installed, on an x86-64 CPU, in fp32 and bf16, for the networks
    that can be built for it here; else PyTorch.

    Args:
        backend: the requested backend.
        device: the device that the network runs on; not `auto`.
        precision: the precision that it computes in; not `auto`.
        is_known: True if the network can be built for OpenVINO (`recognition.recognize`).

    Returns:
        A backend that is not `auto`.

    Raises:
        SettingsError: `NETWORK_BACKEND_UNAVAILABLE`.
    """
    if backend is NetworkBackend.TORCH:
        return backend
    obstacle = _obstacle(device, precision, is_known=is_known)
    if backend is NetworkBackend.AUTO:
        is_usual = platform.machine().lower() in _X86_64
        return NetworkBackend.TORCH if obstacle or not is_usual else NetworkBackend.OPENVINO
    if obstacle:
        raise _unavailable(obstacle)
    return backend


def require_openvino() -> None:
    """Checks that OpenVINO is installed.

    Raises:
        SettingsError: `NETWORK_BACKEND_UNAVAILABLE`.
    """
    if not _is_installed():
        raise _unavailable(_NOT_INSTALLED)


_NOT_INSTALLED = "it is not installed (`pip install beam-upscale[esrgan]` installs it)"


def _is_installed() -> bool:
    return importlib.util.find_spec("openvino") is not None


def _obstacle(device: Device, precision: Precision, *, is_known: bool) -> str | None:
    if device is not Device.CPU:
        return f"it runs networks on a CPU here, and the device is {device}"
    if precision not in _OPENVINO_PRECISIONS:
        return f"it computes in fp32 and bf16 here, and the precision is {precision}"
    if not is_known:
        return "it runs only ESRGAN and Compact networks, and this network is neither"
    return None if _is_installed() else _NOT_INSTALLED


def _unavailable(obstacle: str) -> SettingsError:
    return SettingsError(
        ErrorCode.NETWORK_BACKEND_UNAVAILABLE,
        f"OpenVINO was requested, but {obstacle}. Use --network-backend torch or auto.",
    )
