"""What the log says of calls."""

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import ENGINE, GatedWorker, connected, request, serving
from waits import until

from beam_upscale.server.accounts.keys import add_key
from beam_upscale.server.monitoring.logs import log_as_json
from beam_upscale.server.worker import Worker


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """What is logged as JSON meanwhile."""
    root, ours = logging.getLogger(), logging.getLogger("beam_upscale")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    stream = io.StringIO()
    log_as_json(stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_logs_tell_of_calls_but_no_secrets(
    worker: Worker, tmp_path: Path, image: bytes, logged: io.StringIO
) -> None:
    keys = {"keys": tmp_path / "keys.jsonl", "ledger": tmp_path / "ledger.sqlite"}
    token = add_key(keys["keys"], "one")
    message = request(image, request_id='a "quoted"\nid')
    message.prompt.add(text="a very private prompt")
    with serving(worker, **keys) as server, connected(server, token) as client:
        for _ in range(2):
            client.upscale(message)
        client.refused(request(b"secret bytes"))
        with connected(server, "bu_wrong_secret") as stranger:
            stranger.refused(message)

    text = logged.getvalue()
    lines = [json.loads(line) for line in text.splitlines()]
    calls = [line for line in lines if line["message"] == "call"]
    first, repeat, refused, wrong = calls
    expected = {
        "method": "Generate",
        "code": "OK",
        "key": "one",
        "request_id": 'a "quoted"\nid',
        "engine": ENGINE,
        "image_bytes": len(image),
        "input": "40x30",
        "output": "80x60",
        "credits": "0.2",
        "replay": False,
        "level": "INFO",
    }
    assert first.items() >= expected.items()
    assert first["seconds"] >= first["device_seconds"] > 0
    assert repeat["replay"] and "credits" not in repeat
    assert (refused["code"], refused["error_code"]) == ("INVALID_ARGUMENT", "not_an_image")
    assert wrong["code"] == "UNAUTHENTICATED" and "key" not in wrong
    for secret in (token, "bu_wrong_secret", "private prompt", "secret bytes"):
        assert secret not in text


def test_the_log_says_once_what_was_charged(
    gated: GatedWorker, image: bytes, logged: io.StringIO
) -> None:
    message = request(image, request_id="a")
    with serving(gated) as server, connected(server) as client:
        calls = [client.start(message) for _ in range(3)]
        flights = server.listening.calls._flights
        until(lambda: server.call(lambda: [each.callers for each in flights]) == [3])
        gated.gate.set()
        artifacts = [list(call)[-1].artifacts[0].binary for call in calls]

    lines = [json.loads(line) for line in logged.getvalue().splitlines()]
    answered = [line for line in lines if line["message"] == "call"]
    assert len(set(artifacts)) == 1
    assert sorted(line["replay"] for line in answered) == [False, True, True]
    assert ["credits" in line for line in answered].count(True) == 1
