"""The window of calls of one process: all its threads submit to it, and it bounds their number."""

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn

from beam_upscale.errors import SettingsError
from beam_upscale.grpc_api import contract
from beam_upscale.inference.remote.account import Account
from beam_upscale.inference.remote.calls import Call, Caller, Outcome
from beam_upscale.inference.remote.channel import open_channel
from beam_upscale.inference.remote.event_loop import EventLoop, shared_loop
from beam_upscale.inference.remote.slots import Slots
from beam_upscale.inference.remote.throttle import Throttle

# Unsettled calls for each one in flight, so that the next call is ready when one ends.
_CALLS_AHEAD = 2

# Input pixels of all unsettled calls, for each call that may be in flight: their encoded tiles and
# results are in memory. An engine takes at most 1 Mi pixels in a call.
_PIXELS_EACH = 3 * 2**19


class Window:
    """One channel to a service and the calls on it; safe to use from any number of threads.

    Args:
        account: the account that the calls are made with.
    """

    def __init__(self, account: Account) -> None:
        engine = account.engine
        self._slots = Slots(
            _CALLS_AHEAD * engine.max_in_flight, _PIXELS_EACH * engine.max_in_flight
        )
        self._throttle = Throttle(engine.max_in_flight, engine.requests_per_second)
        self._loop = shared_loop()
        channel, generate = self._loop.submit(_open(account)).result()
        self._caller = Caller(generate, account, self._throttle)
        weakref.finalize(self, _close, self._loop, channel).atexit = False

    @property
    def stop_reason(self) -> SettingsError | None:
        """The error for which no more calls are sent; None while calls are sent."""
        return self._throttle.stop_reason

    def submit(self, pixels: int, prepare: Callable[[], Call]) -> "Future[Outcome]":
        """Submits a call; blocks only while the window is full.

        Its slot is freed when the call is settled, whether or not its outcome is read.

        Args:
            pixels: the number of its input pixels.
            prepare: creates the call; runs in this thread once there is a slot for it.

        Returns:
            The call's outcome; settled at once if the window is stopped.

        Raises:
            Exception: any exception of `prepare`.
        """
        self._slots.take(pixels)
        try:
            if self.stop_reason is not None:
                outcome: Future[Outcome] = Future()
                outcome.set_result(Outcome(stop=self.stop_reason))
            else:
                outcome = self._loop.submit(self._caller.settle(prepare()))
        except BaseException:
            self._slots.give(pixels)
            raise
        # The callback keeps this window alive; without it the channel would be closed.
        outcome.add_done_callback(lambda _: self._slots.give(pixels))
        return outcome

    def __reduce__(self) -> NoReturn:
        raise TypeError("a window's calls are this process's own; it cannot be pickled")


async def _open(account: Account) -> tuple[Any, Any]:
    """Opens a channel on the loop that uses it; returns the channel and its `Generate`.

    Messages stay bytes here: of one that cannot be parsed, gRPC would only write a log line.
    """
    channel = open_channel(account.engine)
    return channel, channel.unary_stream(contract.GENERATE)


def _close(loop: EventLoop, channel: Any) -> None:
    loop.submit(channel.close())


_lock = threading.Lock()
_windows: "weakref.WeakValueDictionary[Account, Window]" = weakref.WeakValueDictionary()


def shared_window(account: Account) -> Window:
    """Returns the process's window for an account; all engines share it.

    A stopped window is replaced by a new one: a later run tries again.
    """
    account = account.for_any_engine()
    with _lock:
        window = _windows.get(account)
        if window is None or window.stop_reason is not None:
            window = _windows[account] = Window(account)
        return window


def _leave_windows_to_parent() -> None:
    global _lock, _windows
    _lock = threading.Lock()
    _windows = weakref.WeakValueDictionary()


os.register_at_fork(after_in_child=_leave_windows_to_parent)
