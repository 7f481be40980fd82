"""Where a pipeline runs: in this process, unless Beam's options name a runner."""

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


def is_local(beam_options: Sequence[str]) -> bool:
    """Whether Beam's options, as on a command line, name no runner."""
    return PipelineOptions(list(beam_options)).view_as(StandardOptions).runner is None


def new_pipeline(beam_options: Sequence[str], workers: int) -> beam.Pipeline:
    """A pipeline without steps.

    Args:
        beam_options: Beam's own, as on a command line.
        workers: threads, where it runs in this process; at least 1.

    Raises:
        SettingsError: INVALID_OPTION, Beam knows no such runner, or not without one of its options.
    """
    options = PipelineOptions(list(beam_options))
    if not is_local(beam_options):
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
    """Has Beam start a runner's servers in process groups of their own.

    Ctrl-C, and a signal to this process's group, would end them at once, and the images that are
    begun with them.
    """
    names = {**vars(subprocess), "Popen": _start_server}
    subprocess_server.subprocess = types.SimpleNamespace(**names)


def _start_server(*arguments: Any, **options: Any) -> "subprocess.Popen[Any]":
    server = subprocess.Popen(*arguments, **options, process_group=0)
    _servers.add(server)
    return server


def end_servers() -> None:
    """Ends a runner's servers: where this process ends at once, nothing else does."""
    for server in list(_servers):
        server.kill()


def send_whole_elements() -> None:
    """Has Beam send what a thread puts out when it is much or the last, and not once a second.

    It concerns pipelines that Beam runs in threads of this process, and no others.
    With several threads Beam 2.77 has another thread send each second what stands in the buffer. It
    waits for no one who is writing: half an element is sent, or one is cleared away unsent, and who
    reads that loses inputs or fills all memory. No option turns that off.
    """
    worker_handlers.DATA_BUFFER_TIME_LIMIT_MS = 0
