"""Engines and HDFS on this machine: a few processes each, on free ports of its loopback."""

import contextlib
import dataclasses
import functools
import getpass
import json
import os
import re
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import fetch
import yaml
from ports import free_port

PIPELINES = fetch.ROOT / "pipelines"
WORKERS = 2
_PATIENCE = 240.0

_LOG4J = """
rootLogger.level = INFO
rootLogger.appenderRef.console.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d %p %c{1} %m%n%throwable
"""

# Flink's scripts compute these from the size of a process; its Python package is without them.
_TASK_MANAGER = {
    "taskmanager.cpu.cores": "1",
    "taskmanager.memory.framework.heap.size": "128m",
    "taskmanager.memory.task.heap.size": "256m",
    "taskmanager.memory.framework.off-heap.size": "128m",
    "taskmanager.memory.task.off-heap.size": "0",
    "taskmanager.memory.network.min": "64m",
    "taskmanager.memory.network.max": "64m",
    "taskmanager.memory.managed.size": "64m",
    "taskmanager.memory.jvm-metaspace.size": "256m",
    "taskmanager.memory.jvm-overhead.min": "64m",
    "taskmanager.memory.jvm-overhead.max": "64m",
}


class Step(StrEnum):
    """A step with a network, whose elements are counted."""

    IMAGES = "Upscale"
    TILES = "SpreadTiles"


# What stands in the name that Flink gives to all that it does in one go with such a step.
_NAMED_BY_FLINK = {Step.IMAGES: "PostponeAfterStop", Step.TILES: "ReadTile"}


@dataclasses.dataclass(frozen=True)
class Cluster:
    """An engine that runs.

    Attributes:
        options: with which a pipeline is submitted to it.
        elements: how many elements of a step each worker took in, in the jobs so far, by the
            engine's own word.
        worker_pool: id of the process whose children do the work in Python.
        spreads_few: whether each worker gets some of a few elements. Flink gave one of two task
            managers all four tiles of an image; why is not known.
    """

    options: tuple[str, ...]
    elements: Callable[[Step], Mapping[str, int]] = lambda _: {}
    worker_pool: int = 0
    spreads_few: bool = False

    @property
    def has_workers(self) -> bool:
        """Whether there are several, with counts of their own."""
        return self.worker_pool != 0


class _Processes:
    """Processes that run until the end of a `with`, each with a log that failures show."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> "_Processes":
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started.values()):
            process.terminate()
        for process in self._started.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start(self, name: str, *command: Path | str, **variables: str) -> int:
        with (self._folder / f"{name}.log").open("wb") as log:
            self._started[name] = subprocess.Popen(
                list(map(str, command)),
                cwd=self._folder,
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        return self._started[name].pid

    def wait(self, what: str, is_ready: Callable[[], bool]) -> None:
        end = time.monotonic() + _PATIENCE
        while not is_ready():
            ended = [name for name, process in self._started.items() if process.poll() is not None]
            assert not ended, f"{ended} ended: {self._log(ended[0])}"
            assert time.monotonic() < end, f"there is still no {what}"
            time.sleep(0.5)

    def _log(self, name: str) -> str:
        return (self._folder / f"{name}.log").read_text()[-4000:]


@contextlib.contextmanager
def flink(folder: Path, workers: int = WORKERS) -> Iterator[Cluster]:
    """A Flink session cluster: a job manager, task managers, and Beam's worker pool."""
    rest, pool = free_port(), free_port()
    configuration = PIPELINES / "flink" / "config.yaml"
    java_options = yaml.safe_load(configuration.read_text())["env.java.opts.all"].split()
    (folder / "log4j.properties").write_text(_LOG4J)
    settings = {
        "jobmanager.rpc.port": str(free_port()),
        "rest.address": "127.0.0.1",
        "rest.port": str(rest),
        "taskmanager.host": "127.0.0.1",
        "io.tmp.dirs": str(folder),
    }

    def java(main: str, heap: str, **more: str) -> list[Path | str]:
        values = [f"-D{name}={value}" for name, value in (settings | more).items()]
        log = f"-Dlog4j.configurationFile={folder / 'log4j.properties'}"
        classes = ["-cp", f"{_site_packages() / 'pyflink' / 'lib'}/*"]
        where = ["--configDir", configuration.parent]
        return [_java(), *java_options, f"-Xmx{heap}", log, *classes, main, *where, *values]

    runtime = "org.apache.flink.runtime"
    with _Processes(folder) as processes:
        main = f"{runtime}.entrypoint.StandaloneSessionClusterEntrypoint"
        processes.start("job-manager", *java(main, "400m"))
        for number in range(workers):
            more = {**_TASK_MANAGER, "taskmanager.resource-id": f"task-manager-{number}"}
            main = f"{runtime}.taskexecutor.TaskManagerRunner"
            processes.start(f"task-manager-{number}", *java(main, "384m", **more))
        worker_pool = _start_pool(processes, pool)
        address = f"http://127.0.0.1:{rest}"
        processes.wait(
            "Flink with its task managers",
            lambda: _field(f"{address}/overview", "taskmanagers") == workers,
        )
        options = (
            "--runner=FlinkRunner",
            f"--flink_master=127.0.0.1:{rest}",
            "--flink_version=1.19",
            f"--flink_job_server_jar={fetch.FLINK_JOB_SERVER}",
            f"--parallelism={workers}",
            *_external(pool),
        )
        yield Cluster(options, functools.partial(_flink_elements, address), worker_pool)


def _flink_elements(address: str, step: Step) -> Mapping[str, int]:
    """Records that each task manager read for a step."""
    counts: Counter[str] = Counter()
    for job in _get(f"{address}/jobs")["jobs"]:
        vertices = f"{address}/jobs/{job['id']}/vertices"
        for vertex in _get(f"{address}/jobs/{job['id']}")["vertices"]:
            if _NAMED_BY_FLINK[step] not in vertex["name"]:
                continue
            for worker in _get(f"{vertices}/{vertex['id']}/taskmanagers")["taskmanagers"]:
                counts[worker["taskmanager-id"]] += worker["metrics"]["read-records"]
    return counts


@contextlib.contextmanager
def spark(folder: Path) -> Iterator[Cluster]:
    """A standalone Spark: a master, two workers, a history server, and Beam's worker pool."""
    port, web, history, pool = free_port(), free_port(), free_port(), free_port()
    events = folder / "events"
    events.mkdir()
    home = _site_packages() / "pyspark"
    # The history server answers for applications that are over, from their logs.
    history_options = {
        "spark.history.fs.logDirectory": events.as_uri(),
        "spark.history.fs.update.interval": "1s",
        "spark.history.ui.port": str(history),
    }
    variables = {
        "SPARK_HOME": str(home),
        "SPARK_CONF_DIR": str(PIPELINES / "spark"),
        "SPARK_LOCAL_IP": "127.0.0.1",
        "SPARK_DAEMON_MEMORY": "300m",
        "SPARK_LOCAL_DIRS": str(folder),
        "SPARK_HISTORY_OPTS": " ".join(_properties(history_options)),
    }
    deploy = "org.apache.spark.deploy"
    with _Processes(folder) as processes:

        def start(name: str, main: str, *arguments: Path | str) -> None:
            script = home / "bin" / "spark-class"
            processes.start(name, "bash", script, f"{deploy}.{main}", *arguments, **variables)

        ports = ["--port", str(port), "--webui-port", str(web)]
        start("master", "master.Master", "--host", "127.0.0.1", *ports)
        for number in range(WORKERS):
            size = ["--cores", "1", "--memory", "700m", "--webui-port", "0"]
            where = ["--host", "127.0.0.1", "--work-dir", folder / f"work-{number}"]
            master = f"spark://127.0.0.1:{port}"
            start(f"worker-{number}", "worker.Worker", *where, *size, master)
        start("history", "history.HistoryServer")
        worker_pool = _start_pool(processes, pool)
        processes.wait(
            "Spark with its workers",
            lambda: _field(f"http://127.0.0.1:{web}/json/", "aliveworkers") == WORKERS,
        )
        address = f"http://127.0.0.1:{history}/api/v1/applications"
        processes.wait("history of Spark's applications", lambda: _is_there(address))
        of_job_server = {
            **_spark_defaults(),
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.ui.enabled": "false",
            "spark.executor.memory": "500m",
            "spark.default.parallelism": str(WORKERS),
            "spark.local.dir": str(folder),
            "spark.eventLog.enabled": "true",
            "spark.eventLog.dir": events.as_uri(),
        }
        options = (
            "--runner=SparkRunner",
            f"--spark_master_url=spark://127.0.0.1:{port}",
            f"--spark_job_server_jar={fetch.SPARK_JOB_SERVER}",
            *(f"--job_server_jvm_property={value}" for value in _properties(of_job_server)),
            *_external(pool),
        )
        elements = functools.partial(_spark_elements, processes, address)
        yield Cluster(options, elements, worker_pool, spreads_few=True)


def _spark_defaults() -> dict[str, str]:
    """The settings that `spark-submit` would read; a job server takes them as Java's properties."""
    lines = (PIPELINES / "spark" / "spark-defaults.conf").read_text().splitlines()
    pairs = (line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))
    return {name: value.strip() for name, value in pairs}


def _spark_elements(processes: _Processes, address: str, step: Step) -> Mapping[str, int]:
    """What each worker's executor gave to the network, by the metrics of Beam in Spark's tasks."""

    def are_complete() -> bool:
        attempts = [attempt for one in _get(address) for attempt in one["attempts"]]
        return all(attempt["completed"] for attempt in attempts)

    processes.wait("end of Spark's application", are_complete)
    counts: Counter[str] = Counter()
    for application in _get(address):
        one = f"{address}/{application['id']}"
        for stage in _get(f"{one}/stages?status=complete"):
            tasks = f"{one}/stages/{stage['stageId']}/{stage['attemptId']}/taskList?length=1000"
            for task in _get(tasks):
                worker = f"{application['id']} {task['executorId']}"
                counts[worker] += sum(_inferences(task["accumulatorUpdates"], step))
    return counts


def _inferences(metrics: Iterable[Mapping[str, str]], step: Step) -> Iterator[int]:
    """Counts of what RunInference took in, from Beam's metrics as Spark has them: as text."""
    for metric in metrics:
        for labels, count in re.findall(r"\{([^{}]*)\}: (\d+)", metric.get("update", "")):
            if "NAME=num_inferences" in labels and f"{step}-RunInference" in labels:
                yield int(count)


def prism() -> Cluster:
    """Prism, which a run starts and ends by itself, and which has no workers of its own."""
    return Cluster(("--runner=PrismRunner", f"--prism_location={fetch.PRISM}"))


@contextlib.contextmanager
def hdfs(folder: Path) -> Iterator[tuple[str, ...]]:
    """HDFS: a NameNode and a DataNode, both empty; gives the options of Beam that reach it."""
    web = free_port()
    settings = {
        "fs.defaultFS": f"hdfs://127.0.0.1:{free_port()}",
        "hadoop.tmp.dir": str(folder / "tmp"),
        "dfs.namenode.http-address": f"127.0.0.1:{web}",
        "dfs.datanode.address": f"127.0.0.1:{free_port()}",
        "dfs.datanode.http.address": f"127.0.0.1:{free_port()}",
        "dfs.datanode.ipc.address": f"127.0.0.1:{free_port()}",
        "dfs.datanode.hostname": "127.0.0.1",
        "dfs.replication": "1",
    }
    for name in ("hdfs", "datanode"):
        # The pages that Hadoop's package has for browsers are looked for, and not needed.
        (folder / "webapps" / name).mkdir(parents=True)

    def java(main: str, *arguments: str) -> list[Path | str]:
        # Its web server was written before Java 17.
        opened = ["--add-opens", "java.base/java.lang=ALL-UNNAMED"]
        classes = ["-cp", f"{folder}{os.pathsep}{fetch.HDFS}/*"]
        values = [word for name, value in settings.items() for word in ("-D", f"{name}={value}")]
        server = f"org.apache.hadoop.hdfs.server.{main}"
        return [_java(), *opened, "-Xmx256m", *classes, server, *values, *arguments]

    formatting = list(map(str, java("namenode.NameNode", "-format", "-nonInteractive")))
    subprocess.run(formatting, cwd=folder, check=True, capture_output=True, timeout=_PATIENCE)
    with _Processes(folder) as processes:
        processes.start("name-node", *java("namenode.NameNode"))
        processes.start("data-node", *java("datanode.DataNode"))
        state = f"http://127.0.0.1:{web}/jmx?qry=Hadoop:service=NameNode,name=FSNamesystemState"

        def are_ready() -> bool:
            [found] = _field(state, "beans") or [{}]
            return found.get("NumLiveDataNodes") == 1 and found.get("FSState") == "Operational"

        processes.wait("HDFS with its DataNode", are_ready)
        # Who started it may do everything.
        user = getpass.getuser()
        yield "--hdfs_host=127.0.0.1", f"--hdfs_port={web}", f"--hdfs_user={user}"


def _start_pool(processes: _Processes, port: int) -> int:
    # The pool starts its processes with whichever `python` comes first.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    pool = fetch.HERE / "worker_pool.py"
    return processes.start("worker-pool", sys.executable, pool, str(port), PATH=path)


def _external(pool: int) -> tuple[str, ...]:
    return (
        "--environment_type=EXTERNAL",
        f"--environment_config=localhost:{pool}",
        "--environment_cache_millis=120000",
    )


def _properties(values: Mapping[str, str]) -> list[str]:
    return [f"-D{name}={value}" for name, value in values.items()]


def _site_packages() -> Path:
    [folder] = fetch.PYTHON.parents[1].glob("lib/python*/site-packages")
    return folder


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home) / "bin" / "java") if home else "java"


def _get(address: str) -> Any:
    with urllib.request.urlopen(address, timeout=30) as answer:
        return json.load(answer)


def _field(address: str, name: str) -> Any:
    with contextlib.suppress(urllib.error.URLError, ConnectionError):
        return _get(address)[name]
    return None


def _is_there(address: str) -> bool:
    with contextlib.suppress(urllib.error.URLError, ConnectionError):
        return _get(address) is not None
    return False
