"""OpenVINO without its converter, and without what would report on its use."""

import sys
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
