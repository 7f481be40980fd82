"""Writes logs as one JSON object a line, on standard error."""

import logging
import sys
from typing import TextIO

from pythonjsonlogger.json import JsonFormatter

_GRPC_LOGGER = "grpc._cython.cygrpc"
# gRPC's log entries that callers can cause at will: the values of headers that are no text, any of
# which may be a key, and the traces of calls whose callers have gone.
_OF_CALLERS = ("Invalid encoding on", "ExecuteBatchError raised in core")

_FIELDS = "%(asctime)s %(levelname)s %(name)s %(message)s"


def log_as_json(stream: TextIO | None = None) -> None:
    """Makes all of this process's logs JSON.

    Args:
        stream: the stream to write to; None takes standard error.
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
    logging.getLogger(_GRPC_LOGGER).addFilter(_is_of_server)


def _is_of_server(record: logging.LogRecord) -> bool:
    return not str(record.msg).startswith(_OF_CALLERS)
