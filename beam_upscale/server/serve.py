"""Starts, runs and shuts down the server of `beam-upscale serve`, on SIGTERM too."""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import NoReturn

from beam_upscale.errors import BrokenProcessError
from beam_upscale.pipeline.termination import raise_if_asked
from beam_upscale.server.accounts.key_file import read_keys
from beam_upscale.server.accounts.ledger_file import require_ledger_place
from beam_upscale.server.listening import Addresses, credentials_of, listening
from beam_upscale.server.monitoring.logs import log_as_json
from beam_upscale.server.service import Service
from beam_upscale.server.settings import ServeSettings
from beam_upscale.server.web import leash
from beam_upscale.server.web.bridge import WebBridge
from beam_upscale.server.worker import Worker

EXIT_BROKEN = 75
"""The exit code of a server that can answer no more calls until it is restarted.

EX_TEMPFAIL of sysexits.h.
"""

# Seconds between checks that the gRPC-Web bridge still runs.
_LOOK_SECONDS = 1.0

_logger = logging.getLogger(__name__)


def serve(
    settings: ServeSettings, on_ready: Callable[[Addresses, tuple[str, ...]], None] | None = None
) -> None:
    """Serves until SIGTERM or SIGINT, then finishes the calls in progress. Runs in the main thread.

    If the device is lost, or no decoder can be started any more, the process exits with
    `EXIT_BROKEN`, so that its supervisor restarts it.

    Args:
        settings: the engines to serve, the addresses and the limits.
        on_ready: called once the server listens, with its addresses and the places that its engines
            run on; None prints them in one line.

    Raises:
        SettingsError: the settings cannot be met.
    """
    log_as_json()
    leash.allow_many_files()
    _require_files(settings)
    try:
        worker = Worker.load(settings.upscale, settings.decode_seconds)
        try:
            raise_if_asked()
            finished = asyncio.run(run(settings, worker, on_ready or _print_ready))
        finally:
            worker.close()
    except BrokenProcessError as error:
        _logger.critical("The server ends and must be restarted: %s", error)
        _exit_at_once(EXIT_BROKEN)
    if not finished:
        _exit_at_once(0)


def _require_files(settings: ServeSettings) -> None:
    """Checks the files of the settings before networks are loaded, which takes long.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    credentials_of(settings)
    if settings.keys is not None:
        read_keys(settings.keys)
    if settings.ledger is not None:
        require_ledger_place(settings.ledger)


def _exit_at_once(code: int) -> NoReturn:
    """Ends this process without waiting for its networks, which cannot be interrupted."""
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


def _print_ready(addresses: Addresses, engines: tuple[str, ...]) -> None:
    where = [f"gRPC on {addresses.grpc}"]
    if addresses.web is not None:
        where.append(f"gRPC-Web on {addresses.web}")
    if addresses.metrics is not None:
        where.append(f"metrics on {addresses.metrics}")
    sys.stdout.write(f"{' and '.join(engines)}: {', '.join(where)}\n")
    sys.stdout.flush()


async def run(
    settings: ServeSettings,
    worker: Worker,
    on_ready: Callable[[Addresses, tuple[str, ...]], None],
) -> bool:
    """Runs the server, as `serve` does, with networks that are already loaded.

    Args:
        settings: the addresses and the limits.
        worker: the worker that upscales; the caller closes it.
        on_ready: as in `serve`, but required.

    Returns:
        True if all calls ended in time. The threads of the others go on.

    Raises:
        SettingsError: the settings cannot be met.
        BrokenProcessError: this process can answer no more calls.
        RuntimeError: the gRPC-Web bridge ended by itself.
    """
    stop = _stop_signals()
    async with listening(settings, worker) as server:
        server.calls.when_broken(stop.give_up)
        if settings.keys is None:
            _logger.warning(
                "No keys are required: every program of this machine may call (--keys)."
            )
        on_ready(server.addresses, worker.engines_in_words)
        await _until_stopped(stop, server.web)
        _logger.info("The server is about to stop.")
        server.service.drain()
        finished = await _finish(server.service, settings.drain_seconds, stop)
    if not finished:
        _logger.warning("Calls were cut off: they took longer than the server may drain.")
    if stop.broken is not None:
        raise stop.broken
    if not stop.is_asked:
        raise RuntimeError("the gRPC-Web bridge ended by itself; see the log")
    return finished


def _stop_signals() -> "_Stop":
    stop = _Stop()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.ask)
    return stop


class _Stop:
    """The request to stop the server: after the first signal in order, after the second at once.

    Attributes:
        broken: the error for which the server has to stop; None if a signal stops it.
    """

    def __init__(self) -> None:
        self.broken: BrokenProcessError | None = None
        self._asked = asyncio.Event()
        self._asked_again = asyncio.Event()

    def ask(self) -> None:
        if self._asked.is_set():
            self._asked_again.set()
        self._asked.set()

    def give_up(self, error: BrokenProcessError) -> None:
        self.broken = error
        self._asked.set()

    @property
    def is_asked(self) -> bool:
        return self._asked.is_set()

    async def wait(self) -> None:
        await self._asked.wait()

    async def wait_again(self) -> None:
        await self._asked_again.wait()


async def _until_stopped(stop: _Stop, web: WebBridge | None) -> None:
    """Waits for a signal, a broken process, or the end of the gRPC-Web bridge."""
    while not stop.is_asked and (web is None or web.is_running):
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if web is None else _LOOK_SECONDS):
                await stop.wait()


async def _finish(service: Service, seconds: float, stop: _Stop) -> bool:
    """Waits for calls in progress, up to `seconds` or a second signal; True if all ended."""
    impatient = asyncio.create_task(stop.wait_again())
    finishing = asyncio.create_task(service.finish(seconds))
    await asyncio.wait({impatient, finishing}, return_when=asyncio.FIRST_COMPLETED)
    impatient.cancel()
    if finishing.done():
        return finishing.result()
    finishing.cancel()
    return await service.finish(0)
