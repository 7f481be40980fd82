"""Checks the service that pinned settings name."""

import dataclasses

from beam_upscale.inference.local_engines import LocalEngine
from beam_upscale.inference.remote import checking
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.settings.pinned import PinnedSettings


def check_service(settings: PinnedSettings) -> PinnedSettings:
    """Checks that the service, if the settings name one, accepts the key and has the engines.

    Returns:
        The settings, with the ledger of a service that charges a repeated request once; unchanged
        for all others.

    Raises:
        SettingsError: ENDPOINT_UNAVAILABLE, API_KEY_REFUSED or UNKNOWN_ENGINE.
    """
    remote = [stage.pinned for stage in settings.stages if isinstance(stage.pinned, RemoteEngine)]
    found = checking.check(remote[0], [engine.engine for engine in remote]) if remote else None
    if found is None:
        return settings
    stages = tuple(
        dataclasses.replace(s, pinned=_with_ledger(s.pinned, found)) for s in settings.stages
    )
    return dataclasses.replace(settings, stages=stages)


def _with_ledger(
    engine: LocalEngine | RemoteEngine, found: checking.ServiceLedger
) -> LocalEngine | RemoteEngine:
    if not isinstance(engine, RemoteEngine):
        return engine
    return dataclasses.replace(engine, ledger=found.ledger, replay_seconds=found.replay_seconds)
