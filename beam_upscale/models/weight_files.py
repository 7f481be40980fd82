"""Reads files of weights without running anything that stands in them, whatever they are called."""

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

from beam_upscale.errors import reason
from beam_upscale.literal import literal, shortened
from beam_upscale.models.recognition import Shapes

PICKLES = (".pth", ".pt", ".ckpt")
"""Suffixes of what `torch.save` writes."""

SAFETENSORS = ".safetensors"

# What `torch.jit.save` writes besides tensors.
_PROGRAM_FILES = frozenset({"constants.pkl"})
_PROGRAM_FOLDERS = frozenset({"code"})


_NUMPY_TYPES: Mapping[str, str] = {"F32": "<f4", "F16": "<f2", "BF16": "<u2"}
"""How NumPy reads the types of safetensors; the bits of bf16 as whole numbers."""

# Escapes by which a terminal would change colors.
_STYLES = re.compile(r"\x1b\[[0-9;]*m")

# Characters of a library's own words in a message.
_LONGEST = 300

# What safetensors allows, too.
_LONGEST_HEADER = 100_000_000


class ProgramError(ValueError):
    """A file of weights is a program, which loading it would run."""


def unreadable(error: Exception, library: str = "spandrel") -> str:
    """Why weights could not be loaded, without a library's advice on how to run what is in them."""
    kind = type(error).__name__
    if isinstance(error, ProgramError):
        return str(error)
    if isinstance(error, pickle.UnpicklingError):
        return (
            "it is no pickle of tensors and plain containers alone, or a damaged one; save the "
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
    """What a file of weights holds, on the CPU: mostly tensors by name.

    Safetensors hold nothing else. Of a pickle only tensors and plain containers are made, as
    PyTorch's `weights_only` has it.

    Args:
        path: a `.pth`, `.pt`, `.ckpt` or `.safetensors` file.

    Raises:
        ProgramError: it is TorchScript; it was not opened as such.
        Exception: it cannot be read, with the errors of zip, pickle and safetensors.
    """
    suffix = path.suffix.lower()
    if suffix == SAFETENSORS:
        from safetensors.torch import load_file

        return load_file(path)
    if suffix not in PICKLES:
        raise ValueError(f"it ends in {suffix!r}")
    refuse_program(path)
    import torch

    # By this name, too, networks of Real-ESRGAN's kind are saved.
    with torch.serialization.safe_globals([(collections.OrderedDict, "typing.OrderedDict")]):
        return torch.load(path, map_location="cpu", weights_only=True)


def read_shapes(path: Path) -> Shapes | None:
    """The shapes of the weights in a file; of safetensors without PyTorch and without the weights.

    Args:
        path: a file of weights.

    Returns:
        None where it is damaged, or holds others than fp32, fp16 and bf16; loading it with PyTorch
        tells what is wrong.

    Raises:
        OSError: it cannot be read.
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
    # Only who has such a file needs PyTorch and spandrel for it.
    from beam_upscale.models.architectures import canonicalize_state_dict

    weights: Mapping[str, Any] = canonicalize_state_dict(read_state_dict(path))
    return weights


def read_arrays(path: Path) -> dict[str, NDArray[np.float32]]:
    """The weights in a file of which `read_shapes` knows the shapes; safetensors without PyTorch.

    Raises:
        Exception: it cannot be read, with the errors of zip, pickle and safetensors.
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
    """Raises where a file is an archive with a program in it.

    Raises:
        ProgramError: it is TorchScript.
        OSError: it cannot be read.
    """
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            names = [PurePosixPath(name) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError):
        # PyTorch's own reader says what is wrong.
        return
    for name in names:
        if name.name in _PROGRAM_FILES or _PROGRAM_FOLDERS & set(name.parts[:-1]):
            raise ProgramError(
                f"it is TorchScript (it has {name.name!r} in it), a program that would run when it "
                "is loaded; save the network's state_dict, as safetensors or with torch.save"
            )
