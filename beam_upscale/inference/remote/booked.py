"""Keeps the entries of a paid call in the books while its attempts go on.

Files are written in separate threads, so that they block neither the event loop nor other calls.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from beam_upscale.errors import BeamUpscaleError
from beam_upscale.inference.paid_calls import Fate, PaidCall
from beam_upscale.inference.remote_engines import RemoteEngine

# Object stores take tens of milliseconds for a file, so many are written at a time.
_WRITERS = 32


class BooksError(Exception):
    """The books cannot be written: no paid call may be made."""


class Booked:
    """The entries of one call in the books; without books it does nothing.

    Args:
        paid: the call in the books; None if no books are kept.
        engine: the service's engine; the service may charge several attempts of the call once.
    """

    def __init__(self, paid: PaidCall | None, engine: RemoteEngine) -> None:
        self._paid = paid
        self._engine = engine
        self._is_open = False
        self._begun_at = 0.0
        self._may_be_charged = False

    async def before_attempt(self) -> None:
        """Ensures a durable entry for the next attempt: a new one if it may be charged once more.

        Raises:
            BeamUpscaleError: as `PaidCall.begin`; the attempt must not be made.
            BooksError: the books cannot be written; the attempt must not be made.
        """
        if self._paid is None:
            return
        if self._may_be_charged and not self._is_charged_once():
            # The attempts so far may have cost their price: that entry stays as it is.
            self._is_open = self._may_be_charged = False
        if not self._is_open:
            self._begun_at = time.time()
            await _in_thread(self._paid.begin)
            self._is_open = True

    def _is_charged_once(self) -> bool:
        """Checks whether an attempt that begins now is charged together with those before it.

        While a machine sleeps, the service may forget the earlier attempts. So the time is taken
        from the wall clock, which goes on during sleep.
        """
        lasts = self._engine.retry_seconds + self._engine.deadline_seconds
        return self._engine.repeat_seconds > 0 and time.time() - self._begun_at <= lasts

    def after_attempt(self, fate: Fate) -> None:
        """Notes the outcome of an attempt."""
        self._may_be_charged = self._may_be_charged or fate is Fate.UNKNOWN

    async def settle(self, fate: Fate, charged: Decimal | None = None) -> None:
        """Makes the outcome of the last entry durable, if it is known.

        Args:
            fate: the fate of the last attempt.
            charged: credits that the service reports as taken for the result: 0 if the result was
                charged before; None if the service reports nothing.

        Raises:
            BooksError: the books cannot be written; the entry stays as it is.
        """
        paid = self._paid
        if paid is None or not self._is_open:
            return
        if charged == 0 and not self._may_be_charged and not paid.is_repeat:
            # The charge is booked in another output, or in an entry that was too old to rely on.
            fate = Fate.FREE
        if fate is Fate.FREE and self._may_be_charged:
            fate = Fate.UNKNOWN
        self._is_open = False
        if fate is not Fate.UNKNOWN:
            await _in_thread(lambda: paid.settle(fate, charged or None))


async def _in_thread(work: Callable[[], None]) -> None:
    try:
        await asyncio.get_running_loop().run_in_executor(_writers, work)
    except BeamUpscaleError:
        raise
    except Exception as error:
        raise BooksError(f"the books cannot be written: {type(error).__name__}: {error}") from error


def _new_writers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_WRITERS, "books")


_writers = _new_writers()


def _leave_writers_to_parent() -> None:
    global _writers
    _writers = _new_writers()


os.register_at_fork(after_in_child=_leave_writers_to_parent)
