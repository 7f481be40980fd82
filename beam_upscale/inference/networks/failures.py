"""Classifies failed passes of a network: a fault of one image, or a lost device.

After some errors a process can compute nothing more, such as CUDA's "sticky" ones, which destroy
the process's context (CUDA Runtime API, "Error Handling": `cudaErrorIllegalAddress` and others
"leave the process in an inconsistent state"). Errors are classified by class and text. PyTorch is
not imported for that: if it is not loaded, it has raised no error.
"""

import re
import sys
import threading
from enum import Enum, auto

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError
from beam_upscale.inference.networks.device import Device

_OUT_OF_MEMORY = (
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "MPS backend out of memory",
    "kIOGPUCommandBufferCallbackErrorOutOfMemory",
    "DefaultCPUAllocator",
    "bad_alloc",
)

# The wording of cudaGetErrorString (and ROCm's hipGetErrorString), of PyTorch and of NVIDIA's
# driver. The hints that PyTorch appends to each of its errors contain none of these.
_LOST = re.compile(
    "|".join(
        (
            # The context is destroyed: 700, 710, 719, 715, 716, 717, 718, 714, 702, 709.
            r"illegal memory access was encountered",
            r"device-side assert triggered",
            r"unspecified launch failure",
            r"illegal instruction was encountered",
            r"misaligned address",
            r"operation not supported on global/shared address space",
            r"invalid program counter",
            r"hardware stack error",
            r"the launch timed out and was terminated",
            r"context is destroyed",
            # The hardware: 214, 220 and 226, 46, 100.
            r"uncorrectable (ECC|NVLink) error",
            r"\bECC error",
            r"devices? (is|are) busy or unavailable",
            r"no (CUDA|ROCm)-capable device is detected",
            r"(GPU|device) (is|was) lost|\bdevice[ _-]lost\b|lost device",
            r"no longer functional",
            r"fallen off the bus",
            r"GPU requires reset",
            r"\bXid\b",
            # The driver: 3, 4, 34, 35, 802, 803, 999; PyTorch's own checks.
            r"(CUDA|HIP) error: (initialization error|unknown error|invalid device ordinal)",
            r"(CUDA|HIP) unknown error",
            r"driver shutting down",
            r"(CUDA|HIP) driver initialization failed",
            r"(CUDA|NVIDIA|display) driver version is insufficient|driver mismatch",
            r"system not yet initialized",
            r"Found no NVIDIA driver",
            r"No (CUDA|HIP) GPUs are available",
            r"Cannot re-initialize CUDA in forked subprocess",
            # Apple's errors of Metal command buffers.
            r"kIOGPUCommandBufferCallbackError(?!OutOfMemory)",
            r"Caused GPU (Hang|Timeout|Address Fault) Error",
            r"for causing prior/excessive GPU errors",
        )
    ),
    re.IGNORECASE,
)

# Further classes beside RuntimeError: of torch.cuda, and of a proxy that wraps any error.
_OTHER_CLASSES = frozenset({"DeferredCudaCallError", "RemoteError"})

_LONGEST_QUOTE = 300


class Fault(Enum):
    """The possible causes of an error.

    Attributes:
        IMAGE: the image; the error itself says so.
        UNCLEAR: the image or the device; a pass over a probe picture decides.
        DEVICE: the device; nothing more can be computed in this process.
    """

    IMAGE = auto()
    UNCLEAR = auto()
    DEVICE = auto()


_UNCLEAR_CODES = frozenset({ErrorCode.OUT_OF_MEMORY, ErrorCode.NOT_A_NUMBER})


def fault_of(error: BaseException) -> Fault:
    """Determines the cause of an error that a pass of a network raised."""
    if isinstance(error, BrokenProcessError):
        return Fault.DEVICE
    if isinstance(error, ImageError):
        return Fault.UNCLEAR if error.code in _UNCLEAR_CODES else Fault.IMAGE
    if is_out_of_memory(error):
        return Fault.UNCLEAR
    if _is_of_device(error):
        return Fault.DEVICE
    if error.__cause__ is not None and fault_of(error.__cause__) is Fault.DEVICE:
        return Fault.DEVICE
    return Fault.UNCLEAR


def _is_of_device(error: BaseException) -> bool:
    """Checks by class and text whether an error is of a device or its driver."""
    # Beam's proxy of a network in another process raises these once that process has ended.
    if isinstance(error, ConnectionError | EOFError):
        return True
    is_told_by_text = isinstance(error, RuntimeError) or type(error).__name__ in _OTHER_CLASSES
    return is_told_by_text and _LOST.search(str(error)) is not None


def is_out_of_memory(error: BaseException) -> bool:
    """Checks for an out-of-memory error; only its text shows it for CUDA libraries, MPS and CPU."""
    torch = sys.modules.get("torch")
    if isinstance(error, MemoryError) or (
        torch is not None and isinstance(error, torch.OutOfMemoryError)
    ):
        return True
    text = str(error)
    return any(each in text for each in _OUT_OF_MEMORY)


def does_not_fit(width: int, height: int, device: Device, error: str, advice: str) -> ImageError:
    """Returns the error of an image that, alone in its batch, does not fit in device memory.

    Args:
        width: the image's width in pixels.
        height: the image's height in pixels.
        device: the device with too little memory.
        error: the library's message; its first line is quoted.
        advice: one or more sentences with a remedy.
    """
    return ImageError(
        ErrorCode.OUT_OF_MEMORY,
        f"One image of {width} x {height} pixels does not fit in the memory of the device "
        f"{device} ({error.splitlines()[0]}). {advice}",
    )


def not_a_number() -> ImageError:
    """Returns the error of a pass that gave values that are not finite."""
    return ImageError(
        ErrorCode.NOT_A_NUMBER,
        "The network gave values that are infinite or not a number; every value must be finite. "
        "Check the weights or use --precision fp32.",
    )


def device_lost(error: BaseException) -> BrokenProcessError:
    """Returns the error that stops a run after a pass failed with the given error."""
    if isinstance(error, BrokenProcessError):
        return error
    return BrokenProcessError(
        ErrorCode.DEVICE_LOST,
        f"this process can compute nothing more on its device ({_first_line(error)}); restart "
        "it, and if that does not help look at the device and its driver",
    )


def no_picture_works(error: BaseException) -> BrokenProcessError:
    """Returns the error that stops a run after the probe picture failed too."""
    if fault_of(error) is Fault.DEVICE:
        return device_lost(error)
    return BrokenProcessError(
        ErrorCode.DEVICE_LOST,
        f"not even the smallest picture can be computed on this device ({_first_line(error)}); "
        "look at what else uses it, at the weights and at --precision, or take another device",
    )


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = lines[0] if lines else "no reason given"
    name = "" if isinstance(error, ImageError) else f"{type(error).__name__}: "
    return f"{name}{told}"[:_LONGEST_QUOTE]


class DeviceState:
    """The state of a device in this process: usable or lost; thread-safe."""

    def __init__(self) -> None:
        self._lost: BrokenProcessError | None = None

    def check(self) -> None:
        """Raises once the device is lost.

        Raises:
            BrokenProcessError: DEVICE_LOST.
        """
        lost = self._lost
        if lost is not None:
            raise lost.copy()

    def lose(self, error: BrokenProcessError) -> None:
        """Makes all later passes of this process fail at once; the first error is kept."""
        self._lost = self._lost or error


_states: dict[Device, DeviceState] = {}
_states_lock = threading.Lock()


def state_of(device: Device) -> DeviceState:
    """Returns a device's state: shared by all networks on an accelerator, new for a CPU."""
    if device is Device.CPU:
        return DeviceState()
    with _states_lock:
        return _states.setdefault(device, DeviceState())
