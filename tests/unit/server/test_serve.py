"""`beam-upscale serve` as a command, and what it listens with."""

import contextlib
import http.client
import io
import json
import os
import signal
import socket
import ssl
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import grpc
import pytest
import runs
import trustme
from PIL import Image
from serving import (
    ENGINE,
    PATIENCE,
    Client,
    GatedWorker,
    connected,
    png,
    request,
    serving,
    serving_elsewhere,
)

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.status import Reason, refusal_of
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.server.accounts.keys import add_key
from beam_upscale.server.accounts.ledger_file import read_charges
from beam_upscale.server.worker import Worker


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """PEM files: of an authority, of a certificate for this machine and of its key."""
    folder = tmp_path_factory.mktemp("tls")
    authority = trustme.CA()
    issued = authority.issue_cert("localhost", "127.0.0.1")
    paths = {name: folder / f"{name}.pem" for name in ("ca", "tls_cert", "tls_key")}
    authority.cert_pem.write_to_path(str(paths["ca"]))
    issued.private_key_pem.write_to_path(str(paths["tls_key"]))
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(paths["tls_cert"]), append=True)
    return paths


def over_web(url: str, message: bytes, key: str = "", ca: Path | None = None) -> list[bytes]:
    """The frames of an answer over gRPC-Web: messages, and the trailers last."""
    where = urlsplit(url)
    assert where.hostname and where.port
    connection: http.client.HTTPConnection
    if where.scheme == "https":
        context = ssl.create_default_context(cafile=ca)
        connection = http.client.HTTPSConnection(
            where.hostname, where.port, timeout=PATIENCE, context=context
        )
    else:
        connection = http.client.HTTPConnection(where.hostname, where.port, timeout=PATIENCE)
    headers = {"content-type": "application/grpc-web+proto", "x-grpc-web": "1"}
    if key:
        headers["authorization"] = f"Bearer {key}"
    body = bytes([0]) + len(message).to_bytes(4, "big") + message
    with contextlib.closing(connection):
        connection.request("POST", contract.GENERATE, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        if not data:
            return [str(answer.headers).encode()]
    frames = []
    while data:
        size = int.from_bytes(data[1:5], "big")
        frames.append(data[5 : 5 + size])
        data = data[5 + size :]
    return frames


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


def test_a_port_that_is_taken_is_refused(gated: GatedWorker) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for option in ("port", "metrics_port"):
            with (
                pytest.raises(SettingsError, match=str(port)) as caught,
                serving(gated, **{option: port}),
            ):
                pass
            assert caught.value.code is ErrorCode.INVALID_OPTION


def test_two_servers_do_not_share_a_port(gated: GatedWorker) -> None:
    with serving(gated) as server:
        port = int(server.address.rpartition(":")[2])
        with pytest.raises(SettingsError, match=str(port)), serving(gated, port=port):
            pass


def test_tls_natively_and_over_the_web(
    worker: Worker, image: bytes, certificates: dict[str, Path], tmp_path: Path
) -> None:
    tls = {name: certificates[name] for name in ("tls_cert", "tls_key")}
    keys = {"keys": tmp_path / "keys.jsonl", "ledger": tmp_path / "ledger.sqlite"}
    token = add_key(keys["keys"], "one")
    trusted = grpc.ssl_channel_credentials(certificates["ca"].read_bytes())
    with serving(worker, **tls, **keys, host="localhost", web_port=0) as server:
        with grpc.secure_channel(server.address, trusted) as channel:
            native = Client(channel, token).upscale(request(image)).binary
        with grpc.secure_channel(server.address, grpc.ssl_channel_credentials()) as channel:
            untrusted = Client(channel, token).refused(request(image))
        with connected(server, token) as client:
            plain = client.refused(request(image))
        url = server.listening.addresses.web
        assert url is not None
        frames = over_web(url, request(image).SerializeToString(), token, certificates["ca"])
        refused = over_web(url, request(image).SerializeToString(), "", certificates["ca"])

    assert url.startswith("https://localhost:")
    assert generation.Answer.FromString(frames[0]).artifacts[0].binary == native
    assert untrusted.code() is plain.code() is grpc.StatusCode.UNAVAILABLE
    assert b"16" in refused[-1] and b"no API key" in refused[-1].replace(b"%20", b" ")


def test_a_certificate_that_is_none_is_refused(gated: GatedWorker, tmp_path: Path) -> None:
    for text in (None, "no certificate"):
        paths = {name: tmp_path / name for name in ("tls_cert", "tls_key")}
        if text is not None:
            for path in paths.values():
                path.write_text(text)
        with pytest.raises(SettingsError), serving(gated, **paths):
            pass


def test_callers_over_the_web_are_counted_by_their_own_address(
    gated: GatedWorker, image: bytes
) -> None:
    # Loopback callers have one address, on both ways in.
    with (
        serving(gated, web_port=0, max_in_flight_per_key=1) as server,
        connected(server) as client,
    ):
        call = client.start(request(image))
        while not gated.begun:
            socket.socket().close()
        url = server.listening.addresses.web
        assert url is not None
        (headers,) = over_web(url, request(image).SerializeToString())
        native = client.refused(request(image))
        gated.gate.set()
        assert list(call)[-1].artifacts

    assert refusal_of(native).reason == Reason.TOO_MANY_CALLS
    assert b"1 calls are in flight" in headers.replace(b"%20", b" ")


def test_the_engine_is_the_default_one() -> None:
    text = runs.command("serve", "--help").out

    assert f"default: {ENGINE}" in " ".join(text.split())
