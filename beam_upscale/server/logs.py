"""Logs: one JSON object for each line, on standard error."""

import logging
import sys
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

# gRPC logs the values of headers that are no text, and any header may hold a key.
_GRPC_LOGGER = "grpc._cython.cygrpc"
_SHOWS_A_HEADER = "Invalid encoding on %s"

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
    logging.getLogger(_GRPC_LOGGER).addFilter(_shows_no_header)


def _shows_no_header(record: logging.LogRecord) -> bool:
    return record.msg != _SHOWS_A_HEADER
