"""What callers see of a server, and what it tells of them."""

import asyncio
import contextlib
import dataclasses
import io
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from PIL import Image
from serving import (
    DIFFUSION,
    ENGINE,
    HEALTH,
    PATIENCE,
    SERVING,
    Client,
    GatedWorker,
    broken,
    chain,
    connected,
    failed,
    health,
    png,
    request,
    serving,
)
from waits import until

from beam_upscale.grpc_api import contract
from beam_upscale.grpc_api.status import Reason, refusal_of
from beam_upscale.grpc_api.stubs import engines_pb2 as engines
from beam_upscale.grpc_api.stubs import generation_pb2 as generation
from beam_upscale.server.accounts.keys import add_key
from beam_upscale.server.accounts.ledger_file import read_charges
from beam_upscale.server.worker import Priced, Upscaled, Worker

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class HeavyWorker(Worker):
    """A worker whose results are larger than what lies on a connection."""

    BYTES = 32 * 2**20

    def upscale(self, priced: Priced) -> Upscaled:
        return dataclasses.replace(super().upscale(priced), data=bytes(self.BYTES))


def stream(client: Client, requests: Iterator[bytes], path: str = contract.GENERATE) -> Any:
    """A call whose requests arrive as the iterator gives them."""
    return client.channel.stream_stream(path)(requests, timeout=PATIENCE, metadata=client.metadata)


@contextlib.contextmanager
def silence() -> Iterator[Callable[..., Iterator[bytes]]]:
    """Makes requests that send what they are given and then nothing, and do not end."""
    end = threading.Event()

    def requests(*messages: bytes) -> Iterator[bytes]:
        yield from messages
        end.wait(PATIENCE)

    try:
        yield requests
    finally:
        end.set()


@contextlib.contextmanager
def slow_line(address: str, gate: threading.Event) -> Iterator[Client]:
    """A client to whom few bytes of answers come until the gate opens."""
    host, _, port = address.rpartition(":")

    def pass_on(source: socket.socket, target: socket.socket, few: int) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(2**16):
                passed += len(data)
                if passed > few:
                    gate.wait(PATIENCE)
                target.sendall(data)

    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection((host, int(port))) as server,
    ):
        channel_options = [("grpc.max_receive_message_length", -1)]
        name = f"127.0.0.1:{listener.getsockname()[1]}"
        with grpc.insecure_channel(name, options=channel_options) as channel:
            grpc.channel_ready_future(channel)
            client, _ = listener.accept()
            ways = ((client, server, 2**30), (server, client, 2**16))
            threads = [threading.Thread(target=pass_on, args=way, daemon=True) for way in ways]
            for thread in threads:
                thread.start()
            with client:
                yield Client(channel)


def test_an_answer_says_what_it_holds(both_engines: Worker, image: bytes) -> None:
    before = time.time() * 1000
    with serving(both_engines) as server, connected(server) as client:
        (answer,) = client.start(request(image, request_id="one", seed=[7]))
        guided = client.upscale(request(image, engine=DIFFUSION, steps=2))
    after = time.time() * 1000

    (artifact,) = answer.artifacts
    assert (answer.request_id, answer.meta.engine_id) == ("one", ENGINE)
    assert before - 1 <= answer.received <= answer.created <= after
    assert len({answer.answer_id, artifact.uuid, ""}) == 3
    assert (artifact.type, artifact.mime, artifact.magic) == (
        generation.ARTIFACT_IMAGE,
        "image/png",
        "PNG",
    )
    assert (artifact.finish_reason, artifact.index, artifact.seed) == (generation.NULL, 0, 7)
    assert artifact.size == len(artifact.binary)
    assert Image.open(io.BytesIO(artifact.binary)).size == (80, 60)
    assert Image.open(io.BytesIO(guided.binary)).size == (160, 120)
    assert guided.seed > 0


def test_a_chain_goes_through_its_engines(both_engines: Worker, image: bytes) -> None:
    second = generation.Request(engine_id=DIFFUSION, image=generation.ImageParameters(steps=2))
    with serving(both_engines) as server, connected(server) as client:
        (answer,) = client.start(chain(request(image), second, request_id="one"))

    assert (answer.request_id, answer.meta.engine_id) == ("one", DIFFUSION)
    assert Image.open(io.BytesIO(answer.artifacts[0].binary)).size == (320, 240)


def test_errors_have_their_codes(worker: Worker, image: bytes) -> None:
    too_large = request(png(Image.new("L", (1024, 1025))))
    two = request(image)
    two.prompt.append(two.prompt[0])
    cases = {
        "INVALID_ARGUMENT": [two, too_large, request(b"x"), request(image, width=9, height=9)],
        "NOT_FOUND": [request(image, engine=DIFFUSION)],
        "UNIMPLEMENTED": [generation.Request(engine_id=ENGINE)],
        "RESOURCE_EXHAUSTED": [request(bytes(contract.MAX_MESSAGE_BYTES))],
    }
    with serving(worker) as server, connected(server) as client:
        found = {
            code: [client.refused(each) for each in requests] for code, requests in cases.items()
        }
        served = client.upscale(request(image))

    for code, errors in found.items():
        assert [error.code().name for error in errors] == [code] * len(errors)
    oversize = refusal_of(found["INVALID_ARGUMENT"][1])
    assert "1,049,600" in oversize.message and "1,048,576" in oversize.message
    assert (oversize.reason, oversize.error_code) == (Reason.IMAGE_REFUSED, "input_too_large")
    assert "67108864" in found["RESOURCE_EXHAUSTED"][0].details()
    assert served.binary


def test_who_waits_is_told_that_the_call_is_alive(gated: GatedWorker, image: bytes) -> None:
    with serving(gated, keep_alive_seconds=0.02) as server, connected(server) as client:
        call = client.start(request(image, request_id="one"))
        early = [next(call) for _ in range(3)]
        gated.gate.set()
        *between, last = call

    assert all(not answer.artifacts for answer in (*early, *between))
    assert {answer.request_id for answer in early} == {"one"}
    assert len(last.artifacts) == 1


def test_a_request_that_does_not_arrive_in_time_ends(worker: Worker, image: bytes) -> None:
    whole = request(image).SerializeToString()
    paths = (contract.GENERATE, contract.LIST_ENGINES, f"{HEALTH}/Check")
    options = {"request_timeout_seconds": 2}
    with serving(worker, **options) as server, connected(server) as client, silence() as silent:
        calls = [stream(client, silent(), path) for path in paths]
        # One that does not say that it is complete is none either.
        calls.append(stream(client, silent(whole)))
        for call in calls:
            found = refusal_of(failed(call))
            assert (found.code, found.reason) == (
                grpc.StatusCode.DEADLINE_EXCEEDED,
                Reason.REQUEST_TOO_SLOW,
            )
        assert client.upscale(request(image)).binary


def test_a_call_has_one_request(worker: Worker, image: bytes) -> None:
    whole = request(image).SerializeToString()
    with serving(worker) as server, connected(server) as client:
        errors = [
            failed(stream(client, iter(requests), path))
            for requests in ([], [whole, whole])
            for path in (contract.GENERATE, contract.LIST_ENGINES)
        ]

    assert {error.code() for error in errors} == {grpc.StatusCode.INVALID_ARGUMENT}


def test_half_open_streams_take_the_places_of_their_key_and_of_nobody_else(
    worker: Worker, image: bytes, tmp_path: Path
) -> None:
    keys = {"keys": tmp_path / "keys.jsonl", "ledger": tmp_path / "ledger.sqlite"}
    hostile, other = (add_key(keys["keys"], name) for name in ("hostile", "other"))
    with (
        serving(worker, **keys, max_in_flight_per_key=4, request_timeout_seconds=5) as server,
        connected(server) as nobody,
        connected(server, hostile) as attacker,
        connected(server, other) as client,
        silence() as silent,
    ):
        streams = [stream(each, silent()) for each in (nobody, attacker) for _ in range(40)]
        served = [client.upscale(request(image)) for _ in range(3)]
        reasons = [refusal_of(failed(each)) for each in streams]
        # Once they have ended, their key may call again.
        again = attacker.upscale(request(image))

    assert all(each.binary for each in (*served, again))
    assert {each.code.name for each in reasons[:40]} == {"UNAUTHENTICATED"}
    of_attacker = [each.reason for each in reasons[40:]]
    assert of_attacker.count(Reason.REQUEST_TOO_SLOW) == 4
    assert of_attacker.count(Reason.TOO_MANY_CALLS) == 36


@pytest.mark.parametrize(
    "sent",
    [
        # A connection that says nothing more, one in the middle of a frame.
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 99, 1, 4]),
    ],
)
def test_connections_without_calls_are_closed(worker: Worker, image: bytes, sent: bytes) -> None:
    with serving(worker, idle_seconds=1) as server:
        host, _, port = server.address.rpartition(":")
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as connection:
            connection.sendall(sent)
            # Until its end: a time-out would raise.
            while connection.recv(4096):
                pass
        with connected(server) as client:
            assert client.upscale(request(image)).binary


def test_a_draining_server_finishes_and_begins_nothing(gated: GatedWorker, image: bytes) -> None:
    with serving(gated) as server, connected(server) as client:
        watched = client.channel.unary_stream(
            f"{HEALTH}/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )(health_pb2.HealthCheckRequest(), timeout=PATIENCE)
        seen = [next(watched).status]
        begun = client.start(request(image, request_id="begun"), timeout=PATIENCE)
        until(lambda: gated.begun)
        server.call(server.listening.service.drain)
        seen += [each.status for each in watched]
        late = client.refused(request(image))
        status = health(client)
        gated.gate.set()
        artifact = list(begun)[-1].artifacts[0]
        finished = server.run(server.listening.calls.finish(PATIENCE))

    assert seen == [SERVING, NOT_SERVING]
    assert late.code() is grpc.StatusCode.UNAVAILABLE
    assert status == NOT_SERVING
    assert artifact.binary
    assert finished


def test_a_request_that_arrives_once_the_server_drains_is_not_begun(
    gated: GatedWorker, image: bytes
) -> None:
    messages: queue.Queue[bytes | None] = queue.Queue()
    gated.gate.set()
    with serving(gated) as server, connected(server) as client:
        method = client.channel.stream_stream(contract.GENERATE)
        call = method(iter(messages.get, None), timeout=PATIENCE)
        permits = server.listening.service._admission._in_flight
        until(lambda: server.call(lambda: dict(permits)))
        server.call(server.listening.service.drain)
        messages.put(request(image).SerializeToString())
        messages.put(None)
        with pytest.raises(grpc.RpcError) as caught:
            list(call)

    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert gated.begun == []


def test_a_server_that_stops_waits_until_answers_are_read(worker: Worker, image: bytes) -> None:
    gate = threading.Event()
    heavy = HeavyWorker(list(worker._networks.values()))
    with (
        contextlib.closing(heavy),
        serving(heavy) as server,
        slow_line(server.address, gate) as client,
    ):
        call = client.start(request(image))
        images = server.listening.service._metrics.images.labels(ENGINE)
        until(lambda: images._value.get() == 1)
        server.call(server.listening.service.drain)
        finishing = asyncio.run_coroutine_threadsafe(
            server.listening.service.finish(PATIENCE), server.loop
        )
        server.run(asyncio.sleep(0.2))
        finished_early = finishing.done()
        gate.set()
        answer = list(call)[-1]

        assert finishing.result(PATIENCE)

    assert not finished_early
    assert len(answer.artifacts[0].binary) == HeavyWorker.BYTES


def test_calls_that_take_longer_than_a_drain_end(gated: GatedWorker, image: bytes) -> None:
    with serving(gated) as server, connected(server) as client:
        call = client.start(request(image))
        until(lambda: gated.begun)
        finished = server.run(server.listening.calls.finish(0.01))
        error = failed(call)
        gated.gate.set()

    assert not finished
    assert error.code() is grpc.StatusCode.UNAVAILABLE


# Which ledger a caller is charged in


def metadata_of_list(client: Client) -> dict[str, str]:
    method = client.channel.unary_unary(
        contract.LIST_ENGINES,
        request_serializer=engines.ListEnginesRequest.SerializeToString,
        response_deserializer=engines.Engines.FromString,
    )
    _, call = method.with_call(engines.ListEnginesRequest(), metadata=client.metadata)
    return dict(call.trailing_metadata())


def asked(client: Client, call: Any, *metadata: tuple[str, str]) -> Any:
    """A call that has ended, with metadata of its own."""
    method = client.channel.unary_stream(
        contract.GENERATE,
        request_serializer=generation.Request.SerializeToString,
        response_deserializer=generation.Answer.FromString,
    )
    call = method(call, timeout=PATIENCE, metadata=(*client.metadata, *metadata))
    with contextlib.suppress(grpc.RpcError):
        list(call)
    return call


def test_a_server_names_its_ledger_and_refuses_calls_for_another(
    worker: Worker, tmp_path: Path, image: bytes
) -> None:
    keys = tmp_path / "keys.jsonl"
    tokens = [add_key(keys, name) for name in ("alice", "bob")]
    ledger, call = tmp_path / "1.sqlite", request(image, request_id="r")
    with serving(worker, keys=keys, ledger=ledger) as server:
        with connected(server, tokens[0]) as client:
            told = metadata_of_list(client)
            name = told[contract.LEDGER]
            good = asked(client, call, (contract.LEDGER, name))
            again = asked(client, call, (contract.LEDGER, name))
            bad = asked(client, call, (contract.LEDGER, "another"))
        with connected(server, tokens[1]) as client:
            assert metadata_of_list(client)[contract.LEDGER] != name
            others = asked(client, call, (contract.LEDGER, name))
    with (
        serving(worker, keys=keys, ledger=tmp_path / "2.sqlite") as server,
        connected(server, tokens[0]) as client,
    ):
        moved = asked(client, call, (contract.LEDGER, name))

    assert float(told[contract.REPLAY_SECONDS]) == 24 * 60 * 60
    assert dict(good.trailing_metadata())[contract.CHARGED] == "0.2"
    assert float(dict(again.trailing_metadata())[contract.CHARGED]) == 0
    for each in (bad, others, moved):
        assert each.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert refusal_of(each).reason == Reason.OTHER_LEDGER
    charges = [each for path in tmp_path.glob("*.sqlite") for each in read_charges(path)]
    assert [charge.key for charge in charges] == ["alice"]


def test_a_server_without_a_ledger_names_none_and_refuses_calls_for_one(
    worker: Worker, image: bytes
) -> None:
    with serving(worker) as server, connected(server) as client:
        told = metadata_of_list(client)
        call = asked(client, request(image), (contract.LEDGER, "another"))
        plain = asked(client, request(image))

    assert contract.LEDGER not in told
    assert call.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert plain.code() is grpc.StatusCode.OK
    assert contract.CHARGED not in dict(plain.trailing_metadata())


def test_a_call_that_fails_says_that_it_was_not_charged(
    worker: Worker, tmp_path: Path, image: bytes
) -> None:
    keys = tmp_path / "keys.jsonl"
    rich, poor = add_key(keys, "rich"), add_key(keys, "poor", granted=Decimal(0))
    failing = broken(worker, RuntimeError("a fault of the test"))
    with serving(failing, keys=keys, ledger=tmp_path / "ledger.sqlite") as server:
        with connected(server, rich) as client:
            failed_call = asked(client, request(image, request_id="r"))
        with connected(server, poor) as client:
            unpaid = asked(client, request(image, request_id="r"))

    assert failed_call.code() is grpc.StatusCode.INTERNAL
    assert unpaid.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert refusal_of(failed_call).charged == refusal_of(unpaid).charged == 0
