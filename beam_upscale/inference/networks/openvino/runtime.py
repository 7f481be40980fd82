"""OpenVINO without its converter, and without what would report on its use."""

import sys
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

_CONVERTER = "openvino.tools.ovc"


def _import() -> tuple[Any, Any]:
    # `import openvino` imports its converter of models, and that OpenVINO's telemetry. It goes on
    # without where they are not installed, as it seems here. A third of the time is saved, too.
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
    """OpenVINO's core of this process, with its plugin for CPUs loaded."""
    # The plugin gives the thread that loads it a stack for its signal handlers, and unmaps that
    # stack when the last network is gone, in whichever thread that happens: the next signal then
    # kills the process. So the plugin lasts as long as the process, and belongs to a thread that
    # takes no signal any more.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(_loaded_core).result()


def _loaded_core() -> Any:
    made = openvino.Core()
    made.get_property("CPU", "FULL_DEVICE_NAME")
    return made
