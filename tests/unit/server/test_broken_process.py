"""Servers that can do no call any more: they say so, charge nothing and end."""

import errno
import functools
import itertools
import json
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import torch
from grpc_health.v1 import health_pb2
from serving import (
    PATIENCE,
    Client,
    broken,
    connected,
    request,
    serving,
    serving_elsewhere,
)
from waits import until

from beam_upscale.errors import BrokenProcessError, ErrorCode
from beam_upscale.grpc_api.status import refusal_of
from beam_upscale.images.decoding import child_process
from beam_upscale.inference.networks.openvino.network import OpenVinoNetwork
from beam_upscale.inference.networks.super_resolution import SuperResolution
from beam_upscale.inference.networks.torch.esrgan import TorchNetwork
from beam_upscale.server.accounts.ledger_file import read_charges
from beam_upscale.server.calls import Calls
from beam_upscale.server.worker import Worker

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVING = health_pb2.HealthCheckResponse.SERVING
LOST = torch.AcceleratorError("CUDA error: an illegal memory access was encountered")


def health(client: Client) -> int:
    answer = client.ask(
        "/grpc.health.v1.Health/Check",
        health_pb2.HealthCheckRequest(),
        health_pb2.HealthCheckResponse,
    )
    return int(answer.status)


def watched_health(client: Client) -> Any:
    """The answers of the health service, as they come."""
    method = client.channel.unary_stream(
        "/grpc.health.v1.Health/Watch",
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    return method(health_pb2.HealthCheckRequest(), timeout=PATIENCE)


def assert_to_come_again(error: grpc.RpcError) -> None:
    refusal = refusal_of(error)
    assert refusal.code is grpc.StatusCode.UNAVAILABLE
    assert refusal.retry_seconds is not None


@pytest.mark.parametrize("error", [LOST, BrokenProcessError(ErrorCode.DEVICE_LOST, "gone")])
def test_a_lost_device_is_no_answer_to_a_call(
    worker: Worker, image: bytes, tmp_path: Path, error: Exception
) -> None:
    ledger = tmp_path / "ledger.sqlite"
    failing = broken(worker, error)
    with serving(failing, ledger=ledger) as server, connected(server) as client:
        before = health(client)
        first = client.refused(request(image, request_id="a"))
        after = health(client)
        second = client.refused(request(image, request_id="b"))
    failing.close()

    assert (before, after) == (SERVING, NOT_SERVING)
    assert "device_lost" in refusal_of(first).message
    assert_to_come_again(first)
    assert_to_come_again(second)
    assert list(read_charges(ledger)) == []


def test_a_server_without_decoders_says_so(
    worker: Worker, image: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(errno.EAGAIN, "no more processes")

    without = Worker(list(worker._networks.values()))
    monkeypatch.setattr(child_process, "START_SECONDS", 0)
    monkeypatch.setattr(child_process.Child, "__init__", refuse)
    with serving(without) as server, connected(server) as client:
        refused = client.refused(request(image))
        status = health(client)

    assert "decoder_unavailable" in refusal_of(refused).message
    assert_to_come_again(refused)
    assert status == NOT_SERVING


def fail_after(sound: int, waiting: int, passes_file: Path) -> None:
    """Has the device be lost after so many passes, once so many calls more have begun.

    Each pass, failing or not, leaves a line.
    """
    passes, forward = itertools.count(1), SuperResolution.upscale
    begun, begin = threading.Semaphore(0), Calls._begin

    def counting(self: Calls, *arguments: Any) -> Any:
        begun.release()
        return begin(self, *arguments)

    def failing(self: SuperResolution, *arguments: Any) -> Any:
        with passes_file.open("a") as file:
            file.write("pass\n")
        if next(passes) <= sound:
            return forward(self, *arguments)
        for _ in range(sound + waiting):
            begun.acquire(timeout=PATIENCE)
        raise LOST

    Calls._begin = counting
    SuperResolution.upscale = failing


def refuse_processes() -> None:
    """Has the system start no decoder, once the server is ready."""

    def refuse(*_: Any) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    child_process.START_SECONDS = 0
    child_process.Child.__init__ = refuse


def lose_device_while_loading() -> None:
    """Has the device be lost before the server listens."""

    def lose(*_: Any) -> None:
        raise LOST

    TorchNetwork.load = OpenVinoNetwork.load = lose


def test_the_command_ends_with_its_code_when_the_device_is_lost(
    tmp_path: Path, tiny_weights: Path, image: bytes
) -> None:
    ledger, passes = tmp_path / "ledger.sqlite", tmp_path / "passes"
    lose = functools.partial(fail_after, 1, 8, passes)
    with serving_elsewhere(tmp_path, tiny_weights, "--ledger", ledger, prepare=lose) as process:
        with connected(process) as client:
            seen = watched_health(client)
            statuses = [next(seen).status]
            done = client.upscale(request(image, request_id="done"))
            calls = [client.start(request(image, request_id=f"{n}")) for n in range(8)]
            errors = []
            for call in calls:
                with pytest.raises(grpc.RpcError) as caught:
                    list(call)
                errors.append(caught.value)
            statuses.append(next(seen).status)
        code = process.exit_code()
        log = [json.loads(line) for line in process.errors().splitlines()]

    assert code == 75
    assert statuses == [SERVING, NOT_SERVING]
    assert done.binary
    for error in errors:
        assert_to_come_again(error)
    assert [each.request_id for each in read_charges(ledger)] == ["done"]
    assert passes.read_text().count("pass") == 2
    told = [line for line in log if line["level"] == "CRITICAL"]
    assert len(told) == 1
    assert "illegal memory access" in told[0]["message"]


@pytest.mark.slow
@pytest.mark.parametrize("prepare", [refuse_processes])
def test_the_command_ends_with_its_code_when_no_decoder_can_be_started(
    tmp_path: Path, tiny_weights: Path, image: bytes, prepare: Callable[[], None]
) -> None:
    with serving_elsewhere(tmp_path, tiny_weights, prepare=prepare) as process:
        with connected(process) as client:
            refused = client.refused(request(image))
        code = process.exit_code()

    assert code == 75
    assert_to_come_again(refused)


@pytest.mark.slow
def test_a_device_that_is_lost_before_the_server_listens_ends_it_likewise(
    tmp_path: Path, tiny_weights: Path
) -> None:
    with (
        pytest.raises(AssertionError, match="device_lost"),
        serving_elsewhere(tmp_path, tiny_weights, prepare=lose_device_while_loading),
    ):
        pass


@pytest.mark.slow
def test_a_signal_for_all_of_the_job_leaves_calls_in_progress_to_finish(
    tmp_path: Path, tiny_weights: Path, image: bytes
) -> None:
    """Slurm and systemd send SIGTERM to a server's decoders too."""
    import psutil

    with serving_elsewhere(tmp_path, tiny_weights) as process, connected(process) as client:
        client.upscale(request(image))
        calls = [client.start(request(image)) for _ in range(6)]
        until(lambda: psutil.Process(process.pid).children())
        for child in psutil.Process(process.pid).children():
            child.send_signal(signal.SIGTERM)
        os.kill(process.pid, signal.SIGTERM)
        answers = [_answered(call) for call in calls]
        code = process.exit_code()

    assert code == 0
    assert all(answers)


def _answered(call: Any) -> bool:
    """Whether a call was answered, or refused because it came too late."""
    try:
        return bool(list(call)[-1].artifacts)
    except grpc.RpcError as error:
        return bool(error.code() is grpc.StatusCode.UNAVAILABLE)
