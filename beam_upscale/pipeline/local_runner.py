"""The runner of a pipeline: this process, unless Beam's options name a runner."""

import subprocess
import types
import weakref
from collections.abc import Sequence
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner, worker_handlers
from apache_beam.utils import subprocess_server

from beam_upscale.errors import ErrorCode, SettingsError


def runs_here(beam_options: Sequence[str]) -> bool:
    """Checks whether a pipeline runs in this process: its options name no runner.

    Args:
        beam_options: Beam's own, as on a command line.
    """
    return PipelineOptions(list(beam_options)).view_as(StandardOptions).runner is None


def new_pipeline(beam_options: Sequence[str], workers: int) -> beam.Pipeline:
    """Creates a pipeline without steps.

    Args:
        beam_options: Beam's own, as on a command line.
        workers: number of threads if the pipeline runs in this process; at least 1.

    Raises:
        SettingsError: INVALID_OPTION, Beam does not know the runner, or misses one of its options.
    """
    options = PipelineOptions(list(beam_options))
    if not runs_here(beam_options):
        _shield_servers()
        try:
            return beam.Pipeline(options=options)
        except (ValueError, ImportError) as error:
            raise SettingsError(ErrorCode.INVALID_OPTION, f"Beam: {error}") from error
    send_whole_elements()
    direct = options.view_as(DirectOptions)
    direct.direct_num_workers = workers
    direct.direct_running_mode = "multi_threading" if workers > 1 else "in_memory"
    # Beam's own default first looks for a runner's binary on the network.
    return beam.Pipeline(runner=FnApiRunner(), options=options)


# The servers that Beam started for a runner.
_servers: "weakref.WeakSet[subprocess.Popen[Any]]" = weakref.WeakSet()


def _shield_servers() -> None:
    """Makes Beam start a runner's servers in process groups of their own.

    Otherwise Ctrl-C, or a signal to this process's group, would end the servers at once, and with
    them the images that are begun.
    """
    names = {**vars(subprocess), "Popen": _start_server}
    subprocess_server.subprocess = types.SimpleNamespace(**names)


def _start_server(*arguments: Any, **keywords: Any) -> "subprocess.Popen[Any]":
    server = subprocess.Popen(*arguments, **keywords, process_group=0)
    _servers.add(server)
    return server


def end_servers() -> None:
    """Kills a runner's servers; nothing else does if this process exits at once."""
    for server in list(_servers):
        server.kill()


def send_whole_elements() -> None:
    """Makes Beam send a thread's output when its buffer is full or ends, not every second.

    This concerns only pipelines that Beam runs in threads of this process. With several threads,
    another thread of Beam 2.77 sends the buffer every second, and does not wait for a thread that
    is writing to it. Half an element is sent, or an element is cleared unsent, and the reader loses
    inputs or fills all memory. No option turns that off.
    """
    worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0
