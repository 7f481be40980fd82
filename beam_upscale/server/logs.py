"""Logs: one JSON object for each line, on standard error."""

import logging
import sys
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

_FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"


def log_as_json(stream: TextIO | None = None) -> None:
    """Makes all of this process's logs JSON.

    Args:
        stream: where they go; None for standard error.
    """
    handler = logging.StreamHandler(sys.stderr if stream is None else stream)
    handler.setFormatter(
        JsonFormatter(
            _FIELDS,
            rename_fields={"asctime": "time", "levelname": "level", "name": "logger"},
            datefmt="%Y-%m-%dT%H:%M:%S%z",
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("beam_upscale").setLevel(logging.INFO)
