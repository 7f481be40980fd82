"""Reads files of weights without running anything that stands in them, whatever they are called."""

import collections
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

PICKLES = (".pth", ".pt", ".ckpt")
"""Suffixes of what `torch.save` writes."""

SAFETENSORS = ".safetensors"

# What `torch.jit.save` writes besides tensors.
_PROGRAM_FILES = frozenset({"constants.pkl"})
_PROGRAM_FOLDERS = frozenset({"code"})


class ProgramError(ValueError):
    """A file of weights is a program, which loading it would run."""


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
