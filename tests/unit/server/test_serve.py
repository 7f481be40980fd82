"""`beam-upscale serve` as a command."""

import io
import json
import os
import signal
import sys
from pathlib import Path

import grpc
import pytest
import runs
from PIL import Image
from serving import ENGINE, connected, over_web, png, request, serving_elsewhere

from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.server.accounts.ledger_file import read_charges


@pytest.mark.slow
def test_the_command_serves_until_it_is_asked_to_stop(
    tmp_path: Path, tiny_weights: Path, image: bytes
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    options = ("--ledger", ledger, "--web-port", "0", "--metrics-port", "0")
    with serving_elsewhere(tmp_path, tiny_weights, *options) as process:
        with connected(process) as client:
            native = client.upscale(request(image, request_id="a")).binary
        url = process.ready.partition("gRPC-Web on ")[2].split(",")[0].strip()
        frames = over_web(url, request(image, request_id="b").SerializeToString())
        os.kill(process.pid, signal.SIGTERM)
        code = process.exit_code()
        errors = process.errors()

    answer = generation.Answer.FromString(frames[0])
    assert code == 0
    assert process.ready.count("\n") == 1
    assert tiny_weights.name in process.ready
    assert "metrics on http://127.0.0.1:" in process.ready
    assert answer.artifacts[0].binary == native
    assert b"grpc-status:0" in frames[-1].replace(b" ", b"")
    assert [each.request_id for each in read_charges(ledger)] == ["a", "b"]
    levels = [json.loads(line)["level"] for line in errors.splitlines()]
    assert "WARNING" in levels and "ERROR" not in levels


@pytest.mark.slow
def test_a_command_that_is_stopped_finishes_what_was_begun(
    tmp_path: Path, tiny_weights: Path, image: bytes
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    with serving_elsewhere(tmp_path, tiny_weights, "--ledger", ledger) as process:
        with connected(process) as client:
            large = png(Image.open(io.BytesIO(image)).resize((640, 480)))
            first = client.start(request(large, request_id="0"))
            calls = [client.start(request(large, request_id=f"{n}")) for n in range(1, 6)]
            assert list(first)[-1].artifacts
            os.kill(process.pid, signal.SIGINT)
            answers = [list(call)[-1] for call in calls]
        code = process.exit_code()

    assert code == 0
    assert all(answer.artifacts for answer in answers)
    assert sorted(each.request_id for each in read_charges(ledger)) == list("012345")


def test_a_second_signal_ends_it_at_once(tmp_path: Path, tiny_weights: Path) -> None:
    with serving_elsewhere(tmp_path, tiny_weights) as process, connected(process) as client:
        large = png(Image.effect_noise((1024, 1024), 50).convert("RGB"))
        calls = [client.start(request(large)) for _ in range(60)]
        # The calls have arrived once a later one has been refused.
        client.refused(request(b"x"))
        os.kill(process.pid, signal.SIGTERM)
        # Two signals at once may be one.
        while client.refused(request(b"x")).code() is not grpc.StatusCode.UNAVAILABLE:
            pass
        os.kill(process.pid, signal.SIGTERM)
        errors = []
        for call in calls:
            try:
                list(call)
            except grpc.RpcError as error:
                errors.append(error)
        code = process.exit_code()

    assert code == 0
    assert errors
    assert {error.code() for error in errors} <= {
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.CANCELLED,
    }


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--host", "0.0.0.0"], "without keys everybody may call"),
        (["--keys", "k.jsonl"], "--ledger"),
        (["--engine", "sdxl"], "unknown engine 'sdxl'"),
        (["--tls-cert", "cert.pem"], "--tls-key"),
        (["--cors-origin", "*"], "--web-port"),
    ],
)
def test_what_cannot_be_served_is_one_line(options: list[str], told: str) -> None:
    finished = runs.command("serve", *options)

    assert finished.code == 2
    assert told in finished.err
    assert finished.err.count("\n") == 1


def test_without_its_extra_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for module in [name for name in sys.modules if name.startswith("beam_upscale.server.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "prometheus_client", None)

    finished = runs.command("serve")

    assert finished.code == 2
    assert "prometheus_client" in finished.err
    assert "pip install 'beam-upscale[serve]'" in finished.err


def test_the_engine_is_the_default_one() -> None:
    text = runs.command("serve", "--help").out

    assert f"default: {ENGINE}" in " ".join(text.split())
