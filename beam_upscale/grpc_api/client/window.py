"""The calls of one process: what all its threads feed, and what is under way at a time."""

import os
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NoReturn

from beam_upscale.errors import SettingsError
from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.client.account import Account
from beam_upscale.grpc_api.client.calls import Call, Caller, Outcome
from beam_upscale.grpc_api.client.channel import open_channel
from beam_upscale.grpc_api.client.event_loop import EventLoop, shared_loop
from beam_upscale.grpc_api.client.slots import Slots
from beam_upscale.grpc_api.client.throttle import Throttle

# Calls that may wait for each one under way, so that the next is there when one ends.
_CALLS_AHEAD = 2

# Input pixels, for each call that may be under way, of all calls that are not settled: their
# encoded tiles and results are in memory. An engine takes at most 1 Mi in a call.
_PIXELS_EACH = 3 * 2**19


class Window:
    """One channel to a service and the calls on it; safe to use from any number of threads.

    Args:
        account: whose calls they are.
    """

    def __init__(self, account: Account) -> None:
        model = account.model
        self._slots = Slots(_CALLS_AHEAD * model.max_in_flight, _PIXELS_EACH * model.max_in_flight)
        self._throttle = Throttle(model.max_in_flight, model.requests_per_second)
        self._loop = shared_loop()
        channel, generate = self._loop.submit(_open(account)).result()
        self._caller = Caller(generate, account, self._throttle)
        weakref.finalize(self, _close, self._loop, channel).atexit = False

    @property
    def stop_reason(self) -> SettingsError | None:
        """Why nothing more is sent; None where it is."""
        return self._throttle.stop_reason

    def submit(self, pixels: int, prepare: Callable[[], Call]) -> "Future[Outcome]":
        """Has a call made; waits only while too many are asked for.

        Its place is given back when it is settled, whether or not anyone takes its outcome.

        Args:
            pixels: of its input.
            prepare: makes the call; called in this thread once there is a place for it.

        Raises:
            Exception: what `prepare` raises.
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
        # It holds this window, whose channel would close with it.
        outcome.add_done_callback(lambda _: self._slots.give(pixels))
        return outcome

    def __reduce__(self) -> NoReturn:
        raise TypeError("a window's calls are this process's own; it cannot be pickled")


async def _open(account: Account) -> tuple[Any, Any]:
    """A channel, opened on the loop that it is used on, and its `Generate`.

    Messages are bytes here: where one cannot be read, gRPC would only log that.
    """
    channel = open_channel(account.model)
    return channel, channel.unary_stream(contract.GENERATE)


def _close(loop: EventLoop, channel: Any) -> None:
    loop.submit(channel.close())


_lock = threading.Lock()
_windows: "weakref.WeakValueDictionary[Account, Window]" = weakref.WeakValueDictionary()


def shared_window(account: Account) -> Window:
    """The process's window for an account, whichever its engine.

    One that was stopped is not given again: a later run asks anew.
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
