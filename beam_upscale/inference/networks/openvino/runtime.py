"""Imports OpenVINO without its converter of models and without its telemetry."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

_CONVERTER = "openvino.tools.ovc"


def _import() -> tuple[Any, Any]:
    # `import openvino` imports its converter of models, which imports OpenVINO's telemetry. It goes
    # on without the converter if that is not installed, which is simulated here. This also saves a
    # third of the time.
    hidden = _CONVERTER not in sys.modules
    if hidden:
        sys.modules[_CONVERTER] = None  # type: ignore[assignment]
    try:
        import openvino  # type: ignore[import-untyped]
        from openvino import opset15
    finally:
        if hidden:
            del sys.modules[_CONVERTER]
    return openvino, opset15


openvino, opset = _import()


@cache
def core() -> Any:
    """Returns OpenVINO's core of this process, with its plugin for CPUs loaded."""
    # The plugin gives the thread that loads it a stack for its signal handlers, and unmaps that
    # stack when the last network is gone, in whichever thread that happens: the next signal then
    # kills the process. So the core, which holds the plugin, lasts as long as the process, and the
    # thread that loads it ends at once, so that no signal reaches it.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_loaded_core).result()


def _loaded_core() -> Any:
    made = openvino.Core()
    made.get_property("CPU", "FULL_DEVICE_NAME")
    return made
