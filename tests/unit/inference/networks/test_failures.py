"""What the errors that PyTorch and its libraries raise mean for a run."""

import pytest
import torch

from beam_upscale.errors import BrokenProcessError, ErrorCode, ImageError, SettingsError
from beam_upscale.inference.networks.device import Device
from beam_upscale.inference.networks.failures import (
    DeviceState,
    Fault,
    device_lost,
    fault_of,
    is_out_of_memory,
    no_picture_works,
    state_of,
)

# What PyTorch appends to each error of CUDA.
HINTS = (
    "\nSearch for `cudaError' in https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES"
    ".html for more information.\nCUDA kernel errors might be asynchronously reported at some other"
    " API call, so the stacktrace below might be incorrect.\nFor debugging consider passing"
    " CUDA_LAUNCH_BLOCKING=1\nDevice-side assertion tracking was not enabled by user."
)

LOST = [
    "CUDA error: an illegal memory access was encountered",
    "CUDA error: device-side assert triggered",
    "CUDA error: unspecified launch failure",
    "CUDA error: an illegal instruction was encountered",
    "CUDA error: misaligned address",
    "CUDA error: the launch timed out and was terminated",
    "CUDA error: uncorrectable ECC error encountered",
    "CUDA error: uncorrectable NVLink error detected during the execution",
    "CUDA error: unknown error",
    "CUDA error: initialization error",
    "CUDA error: invalid device ordinal",
    "CUDA error: driver shutting down",
    "CUDA error: context is destroyed",
    "CUDA error: no CUDA-capable device is detected",
    "CUDA error: all CUDA-capable devices are busy or unavailable",
    "CUDA error: the GPU is lost",
    "the device is no longer functional",
    "HIP error: unspecified launch failure",
    "CUDA driver initialization failed, you might not have a CUDA gpu.",
    "CUDA driver version is insufficient for CUDA runtime version",
    "No CUDA GPUs are available",
    "cuDNN error: CUDNN_STATUS_EXECUTION_FAILED: CUDA error: an illegal memory access was "
    "encountered",
    "Command buffer execution failed: Caused GPU Hang Error (00000003:"
    "kIOGPUCommandBufferCallbackErrorHang)",
    "Ignored (for causing prior/excessive GPU errors) (00000004:"
    "kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)",
]


@pytest.mark.parametrize("text", LOST)
@pytest.mark.parametrize("kind", [torch.AcceleratorError, RuntimeError])
def test_errors_after_which_nothing_works(kind: type[RuntimeError], text: str) -> None:
    error = kind(text + HINTS)

    assert fault_of(error) is Fault.DEVICE
    assert text in device_lost(error).message
    assert HINTS not in device_lost(error).message


def test_a_missing_driver_is_told_by_what_pytorch_itself_says() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a driver")
    with pytest.raises((RuntimeError, AssertionError)) as caught:
        torch.zeros(1, device="cuda")

    if "not compiled with CUDA" not in str(caught.value):
        assert fault_of(caught.value) is Fault.DEVICE


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB." + HINTS),
        torch.AcceleratorError("CUDA error: out of memory" + HINTS),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("MPS backend out of memory (MPS allocated: 17.9 GB)"),
        RuntimeError("Insufficient Memory (8:kIOGPUCommandBufferCallbackErrorOutOfMemory)"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
    ids=str,
)
def test_out_of_memory_is_no_lost_device(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert fault_of(error) is Fault.UNCLEAR


@pytest.mark.parametrize(
    "error",
    [
        torch.AcceleratorError("CUDA error: invalid configuration argument" + HINTS),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"),
        ValueError("an image called 'device lost'"),
        ImageError(ErrorCode.NOT_A_NUMBER, "bad"),
        ImageError(ErrorCode.OUT_OF_MEMORY, "One image does not fit"),
    ],
    ids=str,
)
def test_other_errors_may_be_the_images_or_the_devices(error: Exception) -> None:
    assert not is_out_of_memory(error)
    assert fault_of(error) is Fault.UNCLEAR


def test_what_the_network_says_of_an_image_is_the_images() -> None:
    error = ImageError(ErrorCode.INVALID_NOISE_LEVEL, "after the device is lost")

    assert fault_of(error) is Fault.IMAGE


def test_an_error_is_told_by_its_cause_too() -> None:
    wrapped = ValueError("the scheduler failed")
    wrapped.__cause__ = torch.AcceleratorError(LOST[0])

    assert fault_of(wrapped) is Fault.DEVICE


@pytest.mark.parametrize("error", [ConnectionRefusedError(111, "refused"), EOFError()])
def test_a_network_whose_process_has_ended_is_lost(error: Exception) -> None:
    assert fault_of(error) is Fault.DEVICE


def test_the_line_tells_what_was_found_and_what_to_do() -> None:
    lost = device_lost(torch.AcceleratorError(LOST[0] + HINTS))
    useless = no_picture_works(ImageError(ErrorCode.NOT_A_NUMBER, "infinite\nMore."))

    assert isinstance(lost, SettingsError)
    assert str(lost) == (
        "device_lost: this process can compute nothing more on its device (AcceleratorError: "
        f"{LOST[0]}); restart it, and if that does not help look at the device and its driver"
    )
    assert str(useless).startswith("device_lost: not even the smallest picture can be computed")
    assert "(not_a_number: infinite)" in useless.message
    assert device_lost(lost) is lost
    assert no_picture_works(torch.AcceleratorError(LOST[0])).message == lost.message


def test_a_state_keeps_the_first_error() -> None:
    state = DeviceState()
    state.check()

    state.lose(BrokenProcessError(ErrorCode.DEVICE_LOST, "first"))
    state.lose(BrokenProcessError(ErrorCode.DEVICE_LOST, "second"))

    for _ in range(2):
        with pytest.raises(BrokenProcessError, match="first"):
            state.check()


def test_networks_share_the_state_of_an_accelerator_and_not_that_of_a_cpu() -> None:
    assert state_of(Device.CUDA) is state_of(Device.CUDA)
    assert state_of(Device.CUDA) is not state_of(Device.MPS)
    assert state_of(Device.CPU) is not state_of(Device.CPU)
