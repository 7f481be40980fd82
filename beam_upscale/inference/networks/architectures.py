"""Imports spandrel's ESRGAN and Compact alone; its forty other architectures only when needed.

The others, with torchvision, take as long to import as PyTorch does. So spandrel's package is put
into `sys.modules` without running its `__init__`, which runs at the first use of any of its names,
here or in other code of this process. From then on the package is as if it had been imported in the
usual way.
"""

import contextlib
import importlib.util
import sys
import threading
import types
from collections.abc import Mapping
from typing import Any

_PACKAGE = "spandrel"
_OF_ESRGAN_PLUS = ".conv1x1.weight"


class _DeferredPackage(types.ModuleType):
    """A package in `sys.modules` whose `__init__` runs only at the first use of a name."""

    def __getattr__(self, name: str) -> Any:
        """Runs the package's `__init__` for a name that no submodule has."""
        # Code that searches all modules, such as `inspect`, looks up names like these.
        is_special = name.startswith("__") and name not in ("__all__", "__version__")
        if is_special or not _run(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        return getattr(self, name)

    def __dir__(self) -> list[str]:
        """Runs the package's `__init__`, and lists all names of the package."""
        _run(self)
        return dir(self)


_lock = threading.RLock()
_running: set[str] = set()


def _is_deferred(package: types.ModuleType) -> bool:
    return type(package) is _DeferredPackage


def _run(package: types.ModuleType) -> bool:
    """Runs a package's `__init__` once; returns True if it has run to its end."""
    with _lock:
        if not _is_deferred(package):
            return True
        if package.__name__ in _running:
            return False
        _running.add(package.__name__)
        try:
            assert package.__spec__ is not None
            assert package.__spec__.loader is not None
            package.__spec__.loader.exec_module(package)
            package.__class__ = types.ModuleType
        finally:
            _running.discard(package.__name__)
    return True


def _defer(name: str) -> None:
    """Puts a package into `sys.modules` without running it, unless it is there."""
    if name in sys.modules:
        return
    spec = importlib.util.find_spec(name)
    if spec is not None:
        package = importlib.util.module_from_spec(spec)
        package.__class__ = _DeferredPackage
        sys.modules[name] = package


_defer(_PACKAGE)

from spandrel.__helpers.canonicalize import canonicalize_state_dict  # noqa: E402 (see above)
from spandrel.__helpers.model_descriptor import (  # noqa: E402
    ImageModelDescriptor,
    ModelDescriptor,
    SizeRequirements,
)
from spandrel.architectures.Compact import Compact, CompactArch  # noqa: E402
from spandrel.architectures.ESRGAN import ESRGAN, ESRGANArch  # noqa: E402

from beam_upscale.inference.networks import recognition  # noqa: E402

__all__ = [
    "ESRGAN",
    "Compact",
    "ImageModelDescriptor",
    "SizeRequirements",
    "canonicalize_state_dict",
    "load",
]


def load(state: Mapping[str, Any]) -> ModelDescriptor:
    """Builds a network from its weights, on the CPU, as spandrel's registry does.

    Args:
        state: the tensors of a weights file, by name.

    Raises:
        Exception: any exception of spandrel and of the architecture's own code.
    """
    state = canonicalize_state_dict(state)
    found = _load_alone(canonicalize_state_dict(state))
    if found is not None:
        return found
    from spandrel import ModelLoader

    return ModelLoader(device="cpu").load_from_state_dict(state)


def _load_alone(state: Mapping[str, Any]) -> ModelDescriptor | None:
    """Builds an ESRGAN or a Compact without the registry; None for all other networks."""
    if not _is_deferred(sys.modules[_PACKAGE]):
        # spandrel is fully imported, and other code may have registered more architectures.
        return None
    # Weights that fail here fail in the registry too, which raises the error.
    with contextlib.suppress(Exception):
        architecture = _known(state)
        return None if architecture is None else architecture.load(state)
    return None


def _known(state: Mapping[str, Any]) -> CompactArch | ESRGANArch | None:
    """Returns the architecture of weights if it is certainly one of the two, else None."""
    # A network that only looks like one of them, such as MM-RealSR, is left to the registry.
    # ESRGAN+ is an ESRGAN with a further convolution in each dense block.
    shapes = {name: tuple(values.shape) for name, values in state.items()}
    found = recognition.recognize(
        {name: shape for name, shape in shapes.items() if not name.endswith(_OF_ESRGAN_PLUS)}
    )
    match found and found.architecture:
        case recognition.Compact():
            return CompactArch()
        case recognition.Esrgan():
            return ESRGANArch()
        case _:
            return None
