"""Workers that are killed on Flink and Spark: a row for each input, and each image paid once."""

import contextlib
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import clusters
import faults
import psutil
import pytest
import runs
from faults import Server, ServerFaults

from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.verify import verify

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

BEAM_UPSCALE = Path(sys.executable).with_name("beam-upscale")
PATIENCE = 1500

# Results after which a worker is killed.
KILLS = (20, 70)


@pytest.fixture
def service(tmp_path: Path, tiny_weights: Path) -> Iterator[Server]:
    """A server that does what it should, and takes its time."""
    folder = tmp_path / "server"
    folder.mkdir()
    # The results that are on their way when a worker is killed are charged by then.
    slow = ServerFaults(3, shares={}, calm=sys.maxsize, burst=0, answer_seconds=0.2)
    with faults.server(folder, tiny_weights, slow) as server:
        yield server


def calling_workers(cluster: clusters.Cluster, service: Server) -> list[psutil.Process]:
    """The Python processes that have a connection to the service at the moment.

    One that is killed before its engine hears of it is waited for by Beam without end.
    """
    found = []
    for process in psutil.Process(cluster.worker_pool).children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if ports_to(service, process):
                found.append(process)
    return found


def ports_to(service: Server, process: psutil.Process) -> set[int]:
    """Those of a process's own that are connected to the service."""
    connections = process.net_connections("tcp")
    return {
        each.laddr.port for each in connections if each.raddr and each.raddr.port == service.port
    }


def kill_with_calls_in_flight(process: psutil.Process, service: Server) -> set[str]:
    """Kills a process if it waits for an answer; ids of the requests that it waited for.

    It is stopped first, so that no answer comes between the look and the kill.
    """
    process.suspend()
    ports = ports_to(service, process)
    lost = {request_id for port, request_id in service.in_flight() if port in ports}
    if lost:
        process.kill()
    else:
        process.resume()
    return lost


def kill_workers(
    run: subprocess.Popen[str], output: Path, cluster: clusters.Cluster, service: Server
) -> list[set[str]]:
    """Kills a worker each time that so many results are recorded.

    Returns:
        Of each that was killed, the ids of the requests that were lost with it.
    """
    lost: list[set[str]] = []
    end = time.monotonic() + PATIENCE
    while len(lost) < len(KILLS) and run.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.05)
        found = calling_workers(cluster, service)
        if found and len(list(output.glob(".staging/records/*/*.json"))) >= KILLS[len(lost)]:
            # Another one each time, where there are two.
            with contextlib.suppress(psutil.NoSuchProcess):
                if ids := kill_with_calls_in_flight(found[len(lost) % len(found)], service):
                    lost.append(ids)
    return lost


@pytest.mark.parametrize("cluster", ["flink", "spark"], indirect=True)
def test_workers_that_are_killed_cost_nothing_twice(
    tmp_path: Path,
    cluster: clusters.Cluster,
    photographs: Path,
    service: Server,
) -> None:
    def arguments(key: str, output: Path) -> list[str]:
        remote = ["--backend", "grpc", "--endpoint", service.endpoint, "--max-in-flight", "4"]
        words = ["run", photographs, output, "--api-key-file", service.add_key(key), *remote]
        return [str(word) for word in [*words, "--shard-rows", "30", "--quiet"]]

    here, there = tmp_path / "here", tmp_path / "there"
    assert runs.command(*arguments("here", here)).code == 0
    before = service.attempts()
    # A process that is kept for later tasks is taken for alive once it is lost.
    options = [word for word in cluster.options if "environment_cache" not in word]
    command = [str(BEAM_UPSCALE), *arguments("there", there), "--", *options]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, cwd=tmp_path, stdout=log, stderr=log, text=True)
        try:
            lost = kill_workers(run, there, cluster, service)
            code = run.wait(PATIENCE)
        finally:
            run.kill()

    assert code == 0, (tmp_path / "log").read_text()[-6000:]
    assert len(lost) == len(KILLS)
    assert runs.tree(there) == runs.tree(here)
    assert list(verify(str(there))) == []
    done = [row for row in runs.rows(there).values() if row.status is Status.UPSCALED]
    paid = Counter(charge.request_id for charge in service.charges("there"))
    assert paid == Counter(request_id for row in done for request_id in row.request_ids)
    assert set(paid.values()) == {1}
    attempts = service.attempts() - before
    assert attempts.keys() == paid.keys()
    # What a worker waited for when it was killed was asked for again, and not paid again.
    assert all(attempts[request_id] > 1 for ids in lost for request_id in ids)
    print(f"{len(paid)} images paid, {attempts.total()} calls for them")  # noqa: T201
