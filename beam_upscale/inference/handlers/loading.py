"""Brings the pinned weights, verified, to the machine of a worker."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference import shared_weights
from beam_upscale.inference.local_engines import NetworkEngine
from beam_upscale.inference.networks.failures import DeviceState, Fault, device_lost, fault_of
from beam_upscale.inference.weights import find, hub_repository, registry, values
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris


@contextlib.contextmanager
def on_device(state: DeviceState) -> Iterator[None]:
    """Guards the loading of a network: if the device is lost in the context, all its users fail.

    Raises:
        BrokenProcessError: DEVICE_LOST, now or earlier in this process.
    """
    state.check()
    try:
        yield
    except Exception as error:
        if fault_of(error) is not Fault.DEVICE:
            raise
        lost = device_lost(error)
        state.lose(lost)
        raise lost from error


def weights_path(engine: NetworkEngine) -> Path:
    """Returns the file or folder on this machine that holds the pinned weights.

    Raises:
        SettingsError: WEIGHTS_UNAVAILABLE or WEIGHTS_MISMATCH.
    """
    uri = engine.weights_uri
    if not shared_weights.is_there(uri):
        return _by_name(engine)
    if not store_of(uri).is_local:
        return shared_weights.fetch(uri, engine.weights_sha256)
    return _verified(Path(files.absolute(uri)), engine)


def _by_name(engine: NetworkEngine) -> Path:
    """Finds weights by their name, as their path exists on the submitting machine only."""
    if (
        engine.name in registry.REGISTRY
        or hub_repository.HubRepository.parse(engine.name) is not None
    ):
        return _verified(find.fetch_by_name(engine.name).path, engine)
    raise SettingsError(
        ErrorCode.WEIGHTS_UNAVAILABLE,
        f"{uris.printable(engine.weights_uri)} is not there for this worker; put the weights "
        "where all workers can read them and pass that URI",
    )


def _verified(path: Path, engine: NetworkEngine) -> Path:
    # Raises WEIGHTS_UNAVAILABLE if they cannot be read.
    found = values.Weights.hashed(engine.name, path, source=str(path)).sha256
    if found != engine.weights_sha256:
        raise SettingsError(
            ErrorCode.WEIGHTS_MISMATCH,
            f"{path} has SHA-256 {found}; the run was begun with {engine.weights_sha256}",
        )
    return path
