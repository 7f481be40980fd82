from pathlib import Path
from typing import Any

import pytest

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.server.settings import ServeSettings

UPSCALE = UpscaleSettings()
KEYS, LEDGER = Path("keys.jsonl"), Path("ledger.sqlite")
TLS = {"tls_cert": Path("cert.pem"), "tls_key": Path("key.pem")}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_on_loopback_neither_keys_nor_tls_are_needed(host: str) -> None:
    assert ServeSettings(UPSCALE, host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "gpu.example.org", ""])
@pytest.mark.parametrize("options", [TLS, {"insecure": True}])
def test_other_addresses_need_keys(host: str, options: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="--keys") as caught:
        ServeSettings(UPSCALE, host=host, **options)

    assert caught.value.code is ErrorCode.INVALID_OPTION


def test_other_addresses_need_tls_unless_one_insists() -> None:
    keys = {"keys": KEYS, "ledger": LEDGER}
    with pytest.raises(SettingsError, match="--insecure"):
        ServeSettings(UPSCALE, host="0.0.0.0", **keys)

    assert not ServeSettings(UPSCALE, host="0.0.0.0", **keys, **TLS).is_loopback
    assert not ServeSettings(UPSCALE, host="0.0.0.0", **keys, insecure=True).is_loopback


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"port": -1}, "port is -1"),
        ({"web_port": 65536}, "web_port is 65536"),
        ({"max_queue": -1}, "max_queue is -1"),
        ({"max_in_flight_per_key": 0}, "max_in_flight_per_key is 0"),
        ({"requests_per_second_per_key": 0.0}, "requests_per_second_per_key is 0.0"),
        ({"request_timeout_seconds": float("nan")}, "request_timeout_seconds is nan"),
        ({"decode_seconds": 0}, "decode_seconds is 0"),
        ({"idle_seconds": float("inf")}, "idle_seconds is inf"),
        ({"drain_seconds": -1.0}, "drain_seconds is -1.0"),
        ({"tls_cert": Path("cert.pem")}, "--tls-key"),
        ({"keys": KEYS}, "--ledger"),
        ({"cors_origins": ("*",)}, "--web-port"),
        ({"upscale": UpscaleSettings(engines=("esrgan-v1-x2plus",) * 2)}, "given twice"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        ServeSettings(**{"upscale": UPSCALE, **options})

    assert caught.value.code is ErrorCode.INVALID_OPTION
    assert told in caught.value.message
