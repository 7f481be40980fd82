"""Makes a paid call: attempts, with growing pauses (backoff) between them, until its outcome."""

import asyncio
import dataclasses
import random
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.grpc_api.status import Refusal, charged_by, refusal_of
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.inference.paid_calls import Fate, PaidCall
from beam_upscale.inference.remote.account import Account
from beam_upscale.inference.remote.booked import Booked, BooksError
from beam_upscale.inference.remote.refusals import (
    Verdict,
    fate_of,
    image_error,
    stop_reason,
    verdict_of,
)
from beam_upscale.inference.remote.throttle import Throttle

# The most attempts that may fail because something broke, rather than because it was busy.
_MOST_BROKEN_ATTEMPTS = 4

# The seconds that a service has to end the call after it has sent its result.
_SECONDS_TO_END = 5.0

# The pause before a repeat is random, from 0 to this bound, which doubles with each attempt.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


@dataclasses.dataclass
class ImageCalls:
    """The state that the calls of one image share.

    Attributes:
        is_lost: True once a call failed for good; the image's unsent calls are then never sent.
    """

    is_lost: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call that is to be made.

    Attributes:
        request_id: the id by which the service recognizes repeats of the call.
        request: the message, serialized.
        image: the shared state of the calls of its image.
        paid: the call in the books; None if no books are kept.
    """

    request_id: str
    request: bytes = dataclasses.field(repr=False)
    image: ImageCalls = dataclasses.field(default_factory=ImageCalls)
    paid: PaidCall | None = None


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of a call; empty but for the id if its image was lost before it was sent.

    Attributes:
        request_id: the id of the call.
        artifact: the encoded result, usable or not, since the call was billed; None without one.
        error: the reason why there is no artifact; None if there is one.
        stop: the reason why the call was not sent, or not repeated any more; else None.
        attempts: number of times that the call was sent.
        queue_seconds: time that the call waited before it was first sent.
    """

    request_id: str = ""
    artifact: bytes | None = dataclasses.field(default=None, repr=False)
    error: ImageError | None = None
    stop: SettingsError | None = None
    attempts: int = 0
    queue_seconds: float = 0.0


@dataclasses.dataclass(frozen=True)
class _Failure:
    """An attempt without a result.

    Attributes:
        verdict: the next action.
        error: the error in the image's row if there is no other attempt.
        delay: seconds that the service asks to wait before another attempt.
        fate: the known charge, by the service's answer.
        was_sent: False if there was no attempt, because the call must not be sent.
    """

    verdict: Verdict
    error: ImageError
    delay: float = 0.0
    fate: Fate = Fate.UNKNOWN
    was_sent: bool = True


@dataclasses.dataclass(frozen=True)
class _Result:
    """An attempt with a result.

    Attributes:
        artifact: the encoded result.
        charged: the credits that the service states to have charged now; None if it states none.
    """

    artifact: bytes = dataclasses.field(repr=False)
    charged: Decimal | None = None


class Caller:
    """Makes calls, as fast as a throttle allows; runs on the event loop.

    Args:
        generate: a method of a `grpc.aio` channel that takes and gives serialized messages.
        account: the account that the calls are made for.
        throttle: the limits that all calls share.
    """

    def __init__(self, generate: Callable[..., Any], account: Account, throttle: Throttle) -> None:
        self._generate = generate
        self._account = account
        self._throttle = throttle

    async def settle(self, call: Call) -> Outcome:
        """Makes a call, repeats it if that may help, and returns its outcome.

        A call that was sent is repeated even if its image is lost by then: it may be billed.

        Raises:
            BooksError: the books cannot be written, and no call may be made without its entry.
        """
        try:
            outcome = await self._settle(call)
        except BooksError:
            raise
        except SettingsError as stop:
            self._throttle.stop(stop)
            outcome = Outcome(stop=stop)
        except Exception as error:  # The caller that waits for the outcome must get one.
            text = self._account.quoted(f"{type(error).__name__}: {error}")
            outcome = Outcome(error=ImageError(ErrorCode.INTERNAL_ERROR, text))
        if outcome.error is not None:
            call.image.is_lost = True
        return dataclasses.replace(outcome, request_id=call.request_id)

    async def _settle(self, call: Call) -> Outcome:
        booked = Booked(call.paid, self._account.engine)
        clock, throttle = asyncio.get_running_loop().time, self._throttle
        asked_at = begun_at = clock()
        attempts = broken = 0
        fate = Fate.FREE
        failure: _Failure | None = None
        while True:
            limits = await throttle.enter()
            if limits is None:
                await booked.settle(fate)
                return Outcome(stop=throttle.stop_reason, attempts=attempts)
            try:
                if failure is None:
                    if call.image.is_lost:
                        return Outcome()
                    begun_at = clock()
                elif self._is_late(begun_at, clock()):
                    # The repeat waited too long for its turn.
                    await booked.settle(fate)
                    error = _counted(failure.error, attempts)
                    queued = begun_at - asked_at
                    return Outcome(error=error, attempts=attempts, queue_seconds=queued)
                result = await self._booked_attempt(call, booked, limits)
            finally:
                throttle.leave()
            queued = begun_at - asked_at
            if isinstance(result, _Result):
                await booked.settle(Fate.CHARGED, result.charged)
                attempts += 1
                return Outcome(artifact=result.artifact, attempts=attempts, queue_seconds=queued)
            attempts += result.was_sent
            broken += result.verdict is Verdict.REPEAT_FEW
            fate, pause = result.fate, result.delay + _jitter(attempts)
            if result.verdict is Verdict.STOP:
                await booked.settle(fate)
                return Outcome(stop=throttle.stop_reason, attempts=attempts)
            is_late = self._is_late(begun_at, clock() + pause)
            if result.verdict is Verdict.GIVE_UP or is_late or broken == _MOST_BROKEN_ATTEMPTS:
                await booked.settle(fate)
                error = _counted(result.error, attempts)
                return Outcome(error=error, attempts=attempts, queue_seconds=queued)
            failure = result
            await throttle.sleep(pause)

    def _is_late(self, begun_at: float, at: float) -> bool:
        """Checks whether an attempt at time `at` comes too late after the first one."""
        return at > begun_at + self._account.engine.retry_seconds

    async def _booked_attempt(self, call: Call, booked: Booked, limits: int) -> _Result | _Failure:
        """Sends a call once, with an entry in the books; fails if it must not be sent."""
        try:
            await booked.before_attempt()
        except ImageError as error:
            return _Failure(Verdict.GIVE_UP, error, fate=Fate.FREE, was_sent=False)
        result = await self._attempt(call.request, limits)
        if isinstance(result, _Failure):
            booked.after_attempt(result.fate)
        return result

    async def _attempt(self, request: bytes, limits: int) -> _Result | _Failure:
        """Sends a request once and reads all answers; returns the result or the failure."""
        answers = self._generate(
            request,
            timeout=self._account.engine.deadline_seconds,
            metadata=self._account.metadata,
        )
        result: _Result | _Failure | None = None
        try:
            async with asyncio.timeout(None) as limit:
                async for data in answers:
                    # A service that answers again does not revoke its first answer.
                    result = _decided(result, generation.Answer.FromString(data))
                    if isinstance(result, _Result):
                        limit.reschedule(asyncio.get_running_loop().time() + _SECONDS_TO_END)
                if isinstance(result, _Result) and self._account.engine.ledger is not None:
                    charged = charged_by(await answers.trailing_metadata())
                    result = dataclasses.replace(result, charged=charged)
        except grpc.RpcError as error:
            if not isinstance(result, _Result):
                return self._refused(refusal_of(error), limits)
        except DecodeError:
            if not isinstance(result, _Result):
                answers.cancel()
                return _Failure(Verdict.REPEAT_FEW, _NO_ANSWER)
        except TimeoutError:
            # The result is here; there is no need to wait for the end of the call.
            answers.cancel()
        self._throttle.succeeded()
        return _Failure(Verdict.REPEAT_FEW, _NO_RESULT) if result is None else result

    def _refused(self, refusal: Refusal, limits: int) -> _Failure:
        verdict, delay = verdict_of(refusal), refusal.retry_seconds or 0.0
        if verdict is Verdict.STOP:
            self._throttle.stop(stop_reason(refusal, self._account))
        elif verdict is Verdict.THROTTLE:
            self._throttle.overloaded(limits, min(delay, self._account.engine.retry_seconds))
        error = image_error(refusal, self._account)
        return _Failure(verdict, error, delay, fate_of(refusal, self._account))


_NO_RESULT = ImageError(ErrorCode.NO_RESULT, "the service ended its answer without a result")
_NO_ANSWER = ImageError(ErrorCode.SERVICE_ERROR, "the service's answer is not a message of the API")
_WITHHELD = ImageError(ErrorCode.FILTERED, "the service withheld the result")
_IMAGE_TYPES = {generation.ARTIFACT_IMAGE, generation.ARTIFACT_NONE}


def _decided(result: _Result | _Failure | None, answer: Any) -> _Result | _Failure | None:
    """Returns the result or failure after one more answer; a result is never replaced."""
    for artifact in answer.artifacts:
        if isinstance(result, _Result):
            return result
        match artifact.finish_reason:
            case generation.FILTER:
                result = _Failure(Verdict.GIVE_UP, _WITHHELD, fate=Fate.NEVER_CHARGED)
            case generation.NULL:
                if artifact.type in _IMAGE_TYPES:
                    result = _Result(artifact.binary)
            case reason:
                name = generation.FinishReason.Name(reason) if reason in _REASONS else str(reason)
                text = f"the service could not make the result: finish_reason {name}"
                result = _Failure(Verdict.REPEAT_FEW, ImageError(ErrorCode.SERVICE_ERROR, text))
    return result


_REASONS = frozenset(generation.FinishReason.values())


def _jitter(attempts: int) -> float:
    # Ten doublings already exceed the longest pause.
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempts - 1, 10))
    return random.uniform(0, longest)


def _counted(error: ImageError, attempts: int) -> ImageError:
    if attempts <= 1:
        return error
    return ImageError(error.code, f"{error.message} (after {attempts} attempts)")
