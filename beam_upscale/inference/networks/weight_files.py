"""Reads weights files without running any code in them."""

import collections
import json
import pickle
import re
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from beam_upscale.errors import literal, reason, shortened
from beam_upscale.inference.networks.recognition import Shapes

PICKLES = (".pth", ".pt", ".ckpt")
"""The suffixes of files written by `torch.save`."""

SAFETENSORS = ".safetensors"

# Files and folders that `torch.jit.save` writes besides tensors.
_PROGRAM_FILES = frozenset({"constants.pkl"})
_PROGRAM_FOLDERS = frozenset({"code"})


_NUMPY_TYPES: Mapping[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""NumPy types of safetensors types; bf16 is read as the integers of its bits."""

# Terminal escapes for colors.
_STYLES = re.compile(r"\x1b\[[0-9;]*m")

# The most characters quoted from a library's message.
_LONGEST = 300

# The longest header in bytes; the same limit as in safetensors.
_LONGEST_HEADER = 100_000_000


class ProgramError(ValueError):
    """The error for a weights file that is a program, which loading would run."""


def unreadable(error: Exception, library: str = "spandrel") -> str:
    """Explains why weights could not be loaded, without the library's advice on unsafe loading."""
    kind = type(error).__name__
    if isinstance(error, ProgramError):
        return str(error)
    if isinstance(error, pickle.UnpicklingError):
        return (
            "it is not a pickle of tensors and plain containers alone, or it is damaged; save the "
            "network's state_dict, as safetensors or with torch.save"
        )
    if isinstance(error, OSError) and error.errno is not None:
        return reason(error)
    if isinstance(error, EOFError):
        return "it is empty, or cut off"
    if kind == "UnsupportedModelError":
        return "it has the weights of no network that spandrel knows"
    lines = _STYLES.sub("", str(error)).strip().splitlines()
    words = f": {shortened(literal(lines[0]), _LONGEST)}" if lines else ""
    return f"{library} cannot load it ({kind}{words})"


def read_state_dict(path: Path) -> Any:
    """Reads the content of a weights file to the CPU: usually tensors by name.

    Safetensors hold nothing else. From a pickle only tensors and plain containers are created, as
    with PyTorch's `weights_only`.

    Args:
        path: a `.pth`, `.pt`, `.ckpt` or `.safetensors` file.

    Raises:
        ProgramError: the file is TorchScript; its program was not loaded.
        Exception: the file cannot be read, with the errors of zip, pickle and safetensors.
    """
    suffix = path.suffix.lower()
    if suffix == SAFETENSORS:
        from safetensors.torch import load_file

        return load_file(path)
    if suffix not in PICKLES:
        raise ValueError(f"it ends in {suffix!r}")
    refuse_program(path)
    import torch

    # Networks of Real-ESRGAN's kind are also saved with this name of the class.
    with torch.serialization.safe_globals([(collections.OrderedDict, "typing.OrderedDict")]):
        return torch.load(path, map_location="cpu", weights_only=True)


def read_shapes(path: Path) -> Shapes | None:
    """Reads the shapes of a file's weights; of safetensors from the header, without PyTorch.

    Args:
        path: a file of weights.

    Returns:
        The shapes by name. None if the file is damaged, or safetensors with types other than fp32,
        fp16 and bf16; loading it with PyTorch then gives the error.

    Raises:
        OSError: the file cannot be read.
    """
    if path.suffix.lower() != SAFETENSORS:
        return _pickled_shapes(path)
    with path.open("rb") as file:
        size = file.read(8)
        length = struct.unpack("<Q", size)[0] if len(size) == 8 else 0
        header = file.read(length) if length <= _LONGEST_HEADER else b""
    try:
        entries = json.loads(header)
        entries.pop("__metadata__", None)
        if any(entry["dtype"] not in _NUMPY_TYPES for entry in entries.values()):
            return None
        return {name: tuple(entry["shape"]) for name, entry in entries.items()}
    except (ValueError, TypeError, KeyError, AttributeError):
        return None


def _pickled_shapes(path: Path) -> Shapes | None:
    try:
        weights = _unpickled(path)
        return {name: tuple(values.shape) for name, values in weights.items()}
    except OSError:
        raise
    except Exception:
        return None


def _unpickled(path: Path) -> Mapping[str, Any]:
    # Imported here: only such a file needs PyTorch and spandrel.
    from beam_upscale.inference.networks.architectures import canonicalize_state_dict

    weights: Mapping[str, Any] = canonicalize_state_dict(read_state_dict(path))
    return weights


def read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """Reads the weights of a file that `read_shapes` can read; safetensors without PyTorch.

    Raises:
        Exception: the file cannot be read, with the errors of zip, pickle and safetensors.
    """
    if path.suffix.lower() != SAFETENSORS:
        return {name: values.float().numpy() for name, values in _unpickled(path).items()}
    import safetensors

    entries = safetensors.deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    return {name: _array(entry).reshape(entry["shape"]) for name, entry in entries}


def _array(entry: Mapping[str, Any]) -> NDArray[np.float32]:
    values = np.frombuffer(entry["data"], _NUMPY_TYPES[entry["dtype"]])
    if entry["dtype"] == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False)


def refuse_program(path: Path) -> None:
    """Raises if a file is an archive with a program in it.

    Raises:
        ProgramError: the file is TorchScript.
        OSError: the file cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError):
        # PyTorch's reader raises the error for such a file.
        return
    for name in names:
        if name.name in _PROGRAM_FILES or _PROGRAM_FOLDERS & set(name.parts[:-1]):
            raise ProgramError(
                f"it is TorchScript (it has {name.name!r} in it), a program that would run when it "
                "is loaded; save the network's state_dict, as safetensors or with torch.save"
            )
