"""One paid call, from its first attempt until it is known what became of it."""

import asyncio
import dataclasses
import random
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.grpc_api.client.account import Account
from beam_upscale.grpc_api.client.refusals import Verdict, image_error, stop_reason, verdict_of
from beam_upscale.grpc_api.client.throttle import Throttle
from beam_upscale.grpc_api.status import Refusal, refusal_of
from beam_upscale.grpc_api.stubs import generation_pb2 as generation

# Where something broke, rather than being busy.
_MOST_BROKEN_ATTEMPTS = 4

# A service that has answered has this long to end the call.
_SECONDS_TO_END = 5.0

# The pause before an attempt is drawn from zero to this, which doubles from attempt to attempt.
_FIRST_PAUSE = 0.5
_LONGEST_PAUSE = 30.0


@dataclasses.dataclass
class ImageCalls:
    """What the calls of one image know of each other.

    Attributes:
        is_lost: whether one of them failed for good: what is not sent yet is not paid for.
    """

    is_lost: bool = False


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """A call that is to be made.

    Attributes:
        request_id: what the service knows its repetitions by.
        request: the message, serialized.
        image: the image that it belongs to.
    """

    request_id: str
    request: bytes = dataclasses.field(repr=False)
    image: ImageCalls = dataclasses.field(default_factory=ImageCalls)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of a call; nothing at all where its image was lost before it was sent.

    Attributes:
        request_id: of the call.
        artifact: the encoded result, usable or not: the call was billed. None where it was not.
        error: why there is none.
        stop: why it was not tried, or not to its end.
        attempts: how often it was sent.
        queue_seconds: how long it waited before it was first sent.
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
        verdict: what is to be done about it.
        error: what the image's row says if there is no other attempt.
        delay: seconds that the service wants to pass before one.
    """

    verdict: Verdict
    error: ImageError
    delay: float = 0.0


class Caller:
    """Makes calls, within what a throttle lets through; lives on the event loop.

    Args:
        generate: calls the service with serialized messages: `grpc.aio`'s of a channel.
        account: whose calls they are.
        throttle: what all of them share.
    """

    def __init__(self, generate: Callable[..., Any], account: Account, throttle: Throttle) -> None:
        self._generate = generate
        self._account = account
        self._throttle = throttle

    async def settle(self, call: Call) -> Outcome:
        """Makes a call, and again where that helps, until it is known what became of it.

        A call that was sent is repeated even where its image is lost by then: it may be billed.
        """
        try:
            outcome = await self._settle(call)
        except Exception as error:  # Whoever waits for the outcome must get one.
            text = self._account.quoted(f"{type(error).__name__}: {error}")
            outcome = Outcome(error=ImageError(ErrorCode.INTERNAL_ERROR, text))
        if outcome.error is not None:
            call.image.is_lost = True
        return dataclasses.replace(outcome, request_id=call.request_id)

    async def _settle(self, call: Call) -> Outcome:
        clock, throttle = asyncio.get_running_loop().time, self._throttle
        asked_at = begun_at = clock()
        attempts = broken = 0
        while True:
            limits = await throttle.enter()
            if limits is None:
                return Outcome(stop=throttle.stop_reason, attempts=attempts)
            try:
                if not attempts:
                    if call.image.is_lost:
                        return Outcome()
                    begun_at = clock()
                attempts += 1
                result = await self._attempt(call.request, limits)
            finally:
                throttle.leave()
            queued = begun_at - asked_at
            if isinstance(result, bytes):
                return Outcome(artifact=result, attempts=attempts, queue_seconds=queued)
            if result.verdict is Verdict.STOP:
                return Outcome(stop=throttle.stop_reason, attempts=attempts)
            broken += result.verdict is Verdict.REPEAT_FEW
            pause = result.delay + _jitter(attempts)
            is_late = clock() + pause > begun_at + self._account.model.retry_seconds
            if result.verdict is Verdict.GIVE_UP or is_late or broken == _MOST_BROKEN_ATTEMPTS:
                error = _counted(result.error, attempts)
                return Outcome(error=error, attempts=attempts, queue_seconds=queued)
            await throttle.sleep(pause)

    async def _attempt(self, request: bytes, limits: int) -> bytes | _Failure:
        """Sends a request once and reads all that is answered: the result, or why there is none."""
        answers = self._generate(
            request,
            timeout=self._account.model.deadline_seconds,
            metadata=self._account.metadata,
        )
        result: bytes | _Failure | None = None
        try:
            async with asyncio.timeout(None) as limit:
                async for data in answers:
                    # Whoever repeats an answer does not take back what it said first.
                    result = _decided(result, generation.Answer.FromString(data))
                    if isinstance(result, bytes):
                        limit.reschedule(asyncio.get_running_loop().time() + _SECONDS_TO_END)
        except grpc.RpcError as error:
            if not isinstance(result, bytes):
                return self._refused(refusal_of(error), limits)
        except DecodeError:
            if not isinstance(result, bytes):
                answers.cancel()
                return _Failure(Verdict.REPEAT_FEW, _NO_ANSWER)
        except TimeoutError:
            # The result is here; what its call still waits for is nothing to wait for.
            answers.cancel()
        self._throttle.succeeded()
        return _Failure(Verdict.REPEAT_FEW, _NO_RESULT) if result is None else result

    def _refused(self, refusal: Refusal, limits: int) -> _Failure:
        verdict, delay = verdict_of(refusal), refusal.retry_seconds or 0.0
        if verdict is Verdict.STOP:
            self._throttle.stop(stop_reason(refusal, self._account))
        elif verdict is Verdict.THROTTLE:
            self._throttle.overloaded(limits, min(delay, self._account.model.retry_seconds))
        return _Failure(verdict, image_error(refusal, self._account), delay)


_NO_RESULT = ImageError(ErrorCode.NO_RESULT, "the service ended its answer without a result")
_NO_ANSWER = ImageError(ErrorCode.SERVICE_ERROR, "the service's answer is not a message of the API")
_WITHHELD = ImageError(ErrorCode.FILTERED, "the service withheld the result")
_IMAGE_TYPES = {generation.ARTIFACT_IMAGE, generation.ARTIFACT_NONE}


def _decided(result: bytes | _Failure | None, answer: Any) -> bytes | _Failure | None:
    """What is known after one more answer: a result stays one, whatever follows."""
    for artifact in answer.artifacts:
        if isinstance(result, bytes):
            return result
        match artifact.finish_reason:
            case generation.FILTER:
                result = _Failure(Verdict.GIVE_UP, _WITHHELD)
            case generation.NULL:
                if artifact.type in _IMAGE_TYPES:
                    result = artifact.binary
            case reason:
                name = generation.FinishReason.Name(reason) if reason in _REASONS else str(reason)
                text = f"the service could not make the result: finish_reason {name}"
                result = _Failure(Verdict.REPEAT_FEW, ImageError(ErrorCode.SERVICE_ERROR, text))
    return result


_REASONS = frozenset(generation.FinishReason.values())


def _jitter(attempts: int) -> float:
    # More doublings than these are beyond the longest pause anyhow.
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(attempts - 1, 10))
    return random.uniform(0, longest)


def _counted(error: ImageError, attempts: int) -> ImageError:
    if attempts == 1:
        return error
    return ImageError(error.code, f"{error.message} (after {attempts} attempts)")
