from typing import Any

import pytest

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.remote_engines import RemoteEngine
from beam_upscale.pipeline.settings.settings_json import pinned_to_json

ENGINE = "esrgan-v1-x2plus"


@pytest.mark.parametrize(
    "endpoint",
    ["localhost:1", "LOCALHOST:1", "127.0.0.1:50051", "127.8.9.1:1", "[::1]:443"],
)
def test_this_machine_is_known(endpoint: str) -> None:
    assert RemoteEngine(ENGINE, endpoint).is_loopback


@pytest.mark.parametrize(
    "endpoint",
    [
        *("example.org:443", "10.0.0.1:1", "[2001:db8::1]:443", "localhost.example.org:1"),
        "example.org:65535",
    ],
)
def test_other_machines_are_not_this_one(endpoint: str) -> None:
    assert not RemoteEngine(ENGINE, endpoint).is_loopback


@pytest.mark.parametrize(
    "endpoint",
    [
        *("", "host", "host:", ":1", "host:port", "host:0", "host:65536", "::1:443"),
        *("https://host:443", "h:443/x", "a/b:1"),
    ],
)
def test_what_is_no_endpoint_is_refused(endpoint: str) -> None:
    with pytest.raises(SettingsError) as refused:
        RemoteEngine(ENGINE, endpoint)

    assert refused.value.code is ErrorCode.INVALID_OPTION
    assert refused.value.message == (
        f"the endpoint is {endpoint!r}; it must be HOST:PORT, such as localhost:50051"
    )


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({}, 0),
        ({"ledger": "x", "replay_seconds": 86_400}, 86_400 - 600 - 300 - 60),
        ({"ledger": "x", "replay_seconds": 900}, 0),
        ({"replay_seconds": 86_400}, 0),
    ],
)
def test_a_repeat_is_over_by_the_time_a_ledger_forgets(
    fields: dict[str, Any], seconds: float
) -> None:
    assert RemoteEngine(ENGINE, "h:1", **fields).repeat_seconds == seconds


def test_a_ledger_is_nothing_that_results_depend_on() -> None:
    engine = RemoteEngine(ENGINE, "h:1", ledger="x", replay_seconds=86_400)

    assert pinned_to_json(engine) == pinned_to_json(RemoteEngine(ENGINE, "h:2"))
