"""Checks a service before a run begins: whether it takes the key and has the engines."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Iterable
from typing import Any

import grpc

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.status import refusal_of
from beam_upscale.grpc_api.stubs import engines_pb2
from beam_upscale.inference.remote.account import Account
from beam_upscale.inference.remote.channel import open_channel
from beam_upscale.inference.remote.refusals import Verdict, stop_reason, verdict_of
from beam_upscale.inference.remote_engines import RemoteEngine

_MOST_SECONDS = 10.0
_MOST_ATTEMPTS = 6
_FIRST_PAUSE = 0.1

# gRPC's message for a connection that the other side closed; a TLS server closes plaintext ones.
_HANGS_UP = "Socket closed"


@dataclasses.dataclass(frozen=True)
class ServiceLedger:
    """The ledger in which a service charges a key, as the service states it.

    Attributes:
        ledger: an id that is unique to the ledger and the key.
        replay_seconds: seconds for which the service remembers a request.
    """

    ledger: str
    replay_seconds: float


@dataclasses.dataclass(frozen=True)
class _Listed:
    engines: set[str]
    ledger: ServiceLedger | None


def check(engine: RemoteEngine, engines: Iterable[str]) -> ServiceLedger | None:
    """Asks a service, before a run begins, whether it takes the key and has the engines.

    Nothing is spent. A service that does not list its engines passes.

    Args:
        engine: any engine of the service, with the way to call it.
        engines: the names of the engines that the run needs.

    Returns:
        The ledger of a service that is known to charge a repeated request once; else None.

    Raises:
        SettingsError: ENDPOINT_UNAVAILABLE, the service cannot be reached within 10 s;
            API_KEY_REFUSED; UNKNOWN_ENGINE.
    """
    account = Account.of(engine)
    with contextlib.closing(open_channel(engine, grpc)) as channel:
        listed = _listed(account, channel)
    if listed is None:
        return None
    missing = [name for name in engines if name not in listed.engines]
    if missing:
        raise SettingsError(
            ErrorCode.UNKNOWN_ENGINE,
            f"{engine.endpoint} does not serve {', '.join(missing)}; it serves: "
            f"{', '.join(sorted(listed.engines)) or 'nothing'}",
        )
    return listed.ledger


def _ledger_of(metadata: Any) -> ServiceLedger | None:
    """Returns the ledger in a service's metadata; None if it or its seconds cannot be read.

    Missing seconds count as 0.
    """
    values = dict(metadata or ())
    ledger, seconds = values.get(contract.LEDGER), values.get(contract.REPLAY_SECONDS)
    try:
        replay_seconds = float(seconds) if isinstance(seconds, str) else 0.0
    except ValueError:
        return None
    if not isinstance(ledger, str) or not ledger or not math.isfinite(replay_seconds):
        return None
    return ServiceLedger(ledger, replay_seconds)


def _listed(account: Account, channel: Any) -> _Listed | None:
    """Asks the service for its engines and its ledger; None if it does not list engines."""
    list_engines = channel.unary_unary(
        contract.LIST_ENGINES,
        request_serializer=engines_pb2.ListEnginesRequest.SerializeToString,
        response_deserializer=engines_pb2.Engines.FromString,
    )
    end, pause = time.monotonic() + _MOST_SECONDS, _FIRST_PAUSE
    for attempt in range(1, _MOST_ATTEMPTS + 1):
        try:
            answer, call = list_engines.with_call(
                engines_pb2.ListEnginesRequest(),
                timeout=max(_FIRST_PAUSE, end - time.monotonic()),
                metadata=account.metadata,
            )
            names = {engine.id for engine in answer.engine}
            return _Listed(names, _ledger_of(call.trailing_metadata()))
        except grpc.RpcError as error:
            refusal = refusal_of(error)
        if refusal.code is grpc.StatusCode.UNIMPLEMENTED:
            return None
        verdict = verdict_of(refusal)
        if verdict is Verdict.STOP:
            raise stop_reason(refusal, account)
        pause = refusal.retry_seconds or 2 * pause
        is_late = time.monotonic() + pause >= end
        if verdict is Verdict.GIVE_UP or attempt == _MOST_ATTEMPTS or is_late:
            break
        time.sleep(pause)
    hint = ""
    if account.engine.is_plaintext and _HANGS_UP in refusal.message:
        hint = "; it was called in plaintext, and may require TLS (on this machine with --ca-file)"
    raise SettingsError(
        ErrorCode.ENDPOINT_UNAVAILABLE,
        f"{account.engine.endpoint} does not answer: "
        f"{refusal.code.name}: {account.quoted(refusal.message)}{hint}",
    )
