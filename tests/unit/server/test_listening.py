"""Addresses, certificates and ports that a server listens with."""

import socket
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
import trustme
from serving import Client, GatedWorker, connected, over_web, request, serving

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.grpc_api.status import Reason, refusal_of
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.server.accounts.keys import add_key
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
