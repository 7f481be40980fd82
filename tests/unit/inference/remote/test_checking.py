import socket
from pathlib import Path

import grpc
import pytest
import trustme
from ports import closed_port
from scripted_service import ENGINE, engine_of, handler_of, infer, service_with, whole

from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.grpc_api.contract import MAX_MESSAGE_BYTES
from beam_upscale.inference.remote import checking
from beam_upscale.inference.remote.channel import open_channel
from beam_upscale.inference.remote.checking import check
from beam_upscale.inference.remote_engines import RemoteEngine


def refused(engine: RemoteEngine, *engines: str) -> SettingsError:
    with pytest.raises(SettingsError) as error:
        check(engine, engines or [ENGINE])
    return error.value


class Lister:
    """Stands in a service for what lists its engines: refuses at first."""

    def __init__(self, times: int, code: grpc.StatusCode, message: str = "no") -> None:
        self.refusals = times
        self._code = code
        self._message = message

    def __call__(self, request: object, context: grpc.ServicerContext) -> object:
        del request
        if self.refusals:
            self.refusals -= 1
            context.abort(self._code, self._message)
        from beam_upscale.grpc_api.stubs import engines_pb2

        return engines_pb2.Engines(engine=[engines_pb2.EngineInfo(id=ENGINE)])


# What is asked


def test_a_service_with_the_engines_passes_and_is_sent_no_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_API_KEY", "sk-1")
    with service_with(engines=[ENGINE, "another"]) as service:
        check(engine_of(service), [ENGINE])

    assert service.requests == []
    assert [sent["authorization"] for sent in service.metadata] == ["Bearer sk-1"]


def test_an_engine_that_is_not_served_is_named_beside_those_that_are() -> None:
    with service_with(engines=["b", "a"]) as service:
        error = refused(engine_of(service), ENGINE, "a")

    assert error.code is ErrorCode.UNKNOWN_ENGINE
    assert error.message == f"{service.endpoint} does not serve {ENGINE}; it serves: a, b"


def test_a_service_that_lists_no_engines_passes() -> None:
    with service_with(engines=None) as service:
        check(engine_of(service), [ENGINE])


@pytest.mark.parametrize(
    "code", [grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED]
)
def test_a_key_that_is_refused_is_said_without_showing_it(
    code: grpc.StatusCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BEAM_UPSCALE_API_KEY", "sk-1")
    with service_with(list_engines=Lister(9, code, "not sk-1")) as service:
        error = refused(engine_of(service))

    assert error.code is ErrorCode.API_KEY_REFUSED
    assert error.message.endswith(f"({code.name}: not [API key])")


def test_a_key_that_is_missing_is_said() -> None:
    lister = Lister(9, grpc.StatusCode.UNAUTHENTICATED)
    with service_with(list_engines=lister) as service:
        error = refused(engine_of(service))

    assert error.code is ErrorCode.API_KEY_REFUSED
    assert "BEAM_UPSCALE_API_KEY" in error.message
    assert lister.refusals == 8


def test_a_busy_service_is_asked_again() -> None:
    lister = Lister(3, grpc.StatusCode.UNAVAILABLE)
    with service_with(list_engines=lister) as service:
        check(engine_of(service), [ENGINE])

    assert lister.refusals == 0


def test_a_service_that_stays_busy_or_does_something_else_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checking, "_FIRST_PAUSE", 0.01)
    for code, left in (
        (grpc.StatusCode.UNAVAILABLE, 3),
        (grpc.StatusCode.INVALID_ARGUMENT, 8),
    ):
        lister = Lister(9, code, "sorry")
        with service_with(list_engines=lister) as service:
            error = refused(engine_of(service))

        assert error.code is ErrorCode.ENDPOINT_UNAVAILABLE
        assert error.message == f"{service.endpoint} does not answer: {code.name}: sorry"
        assert lister.refusals == left


def test_where_nothing_listens_the_endpoint_is_unavailable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checking, "_FIRST_PAUSE", 0.01)
    with closed_port() as port:
        error = refused(RemoteEngine(ENGINE, f"127.0.0.1:{port}"))

    assert error.code is ErrorCode.ENDPOINT_UNAVAILABLE
    assert f"127.0.0.1:{port} does not answer: UNAVAILABLE" in error.message


def test_a_service_that_says_nothing_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(checking, "_MOST_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        error = refused(RemoteEngine(ENGINE, f"127.0.0.1:{port}"))

    assert error.code is ErrorCode.ENDPOINT_UNAVAILABLE
    assert "DEADLINE_EXCEEDED" in error.message


# How the connection is made


class Library:
    """What is asked of gRPC."""

    def __init__(self) -> None:
        self.options: dict[str, int] = {}

    def insecure_channel(self, endpoint: str, options: list[tuple[str, int]]) -> str:
        self.options = dict(options)
        return f"plaintext to {endpoint}"

    def secure_channel(
        self, endpoint: str, credentials: object, options: list[tuple[str, int]]
    ) -> str:
        assert isinstance(credentials, grpc.ChannelCredentials)
        self.options = dict(options)
        return f"TLS to {endpoint}"


@pytest.mark.parametrize(
    ("endpoint", "insecure", "ca", "expected"),
    [
        ("example.org:1", False, None, "TLS"),
        ("example.org:1", False, "a certificate", "TLS"),
        ("example.org:1", True, None, "plaintext"),
        ("localhost:1", False, None, "plaintext"),
        ("localhost:1", True, None, "plaintext"),
        ("localhost:1", False, "a certificate", "TLS"),
    ],
)
def test_other_machines_are_called_with_tls(
    endpoint: str, insecure: bool, ca: str | None, expected: str
) -> None:
    engine = RemoteEngine(ENGINE, endpoint, insecure=insecure, ca=ca)

    assert open_channel(engine, Library()) == f"{expected} to {endpoint}"


def test_grpc_itself_repeats_nothing_and_takes_large_messages() -> None:
    near, far = Library(), Library()
    open_channel(RemoteEngine(ENGINE, "localhost:1"), near)
    open_channel(RemoteEngine(ENGINE, "example.org:1"), far)

    for library in (near, far):
        assert library.options["grpc.enable_retries"] == 0
        assert library.options["grpc.max_send_message_length"] == MAX_MESSAGE_BYTES
        assert library.options["grpc.max_receive_message_length"] == MAX_MESSAGE_BYTES
        assert library.options["grpc.keepalive_time_ms"] > 0
    assert near.options["grpc.enable_http_proxy"] == 0
    assert far.options["grpc.enable_http_proxy"] == 1


def test_tls_takes_a_certificate_authority_of_ones_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checking, "_FIRST_PAUSE", 0.01)
    authority, stranger = trustme.CA(), trustme.CA()
    certificate = authority.issue_cert("127.0.0.1")
    key = certificate.private_key_pem.bytes()
    chain = b"".join(pem.bytes() for pem in certificate.cert_chain_pems)
    credentials = grpc.ssl_server_credentials([(key, chain)])
    with service_with(credentials=credentials) as service:
        ca = authority.cert_pem.bytes().decode()
        check(engine_of(service, ca=ca), [ENGINE])
        (inference,) = infer(handler_of(service, ca=ca), [whole("a")])
        wrong = refused(engine_of(service, ca=stranger.cert_pem.bytes().decode()))
        plain = refused(engine_of(service))

    assert inference.error is None
    assert wrong.code is ErrorCode.ENDPOINT_UNAVAILABLE
    assert plain.code is ErrorCode.ENDPOINT_UNAVAILABLE
    assert plain.message.endswith("may require TLS (on this machine with --ca-file)")
