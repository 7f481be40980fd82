"""Beam's runner in this process, with several threads."""

import os
import signal
import time
from pathlib import Path
from typing import Any

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import worker_handlers
from apache_beam.testing.util import assert_that, equal_to

import beam_upscale as bu
from beam_upscale.pipeline import local_runner
from beam_upscale.pipeline.local_runner import new_pipeline

ELEMENTS = 40


class Slow:
    """Takes its time to be written, behind the key that is written before it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        time.sleep(0.02)
        return Slow, (self.number,)


def emitted(worker: int) -> list[tuple[int, Slow]]:
    return [(number, Slow(worker)) for number in range(ELEMENTS)]


def pipeline_of_ones_own(weights: Path) -> beam.Pipeline:
    """Beam's runner as whoever has our transforms in a program may take it."""
    pipeline = beam.Pipeline(
        runner="apache_beam.runners.portability.fn_api_runner.FnApiRunner",
        options=PipelineOptions(direct_num_workers=2, direct_running_mode="multi_threading"),
    )
    _ = (
        pipeline
        | "NoImages" >> beam.Create([])
        | bu.Upscale(weights=str(weights), precision="fp32", device="cpu")
    )
    return pipeline


@pytest.mark.parametrize("is_ones_own", [False, True])
def test_what_is_sent_while_it_is_written_arrives_whole(
    tiny_weights: Path, monkeypatch: pytest.MonkeyPatch, is_ones_own: bool
) -> None:
    # As Beam has it, but ten times as often, and whatever was run before.
    monkeypatch.setattr(worker_handlers, "DATA_BUFFER_TIME_LIMIT_MS", 100)
    pipeline = pipeline_of_ones_own(tiny_weights) if is_ones_own else new_pipeline([], workers=2)
    workers_by_key = (
        pipeline
        | beam.Create([0, 1])
        | beam.FlatMap(emitted)
        | beam.GroupByKey()
        | beam.MapTuple(lambda key, values: (key, sorted(value.number for value in values)))
    )

    assert_that(workers_by_key, equal_to([(number, [0, 1]) for number in range(ELEMENTS)]))
    pipeline.run().wait_until_finish()


PATIENCE = 60


def test_servers_of_a_runner_are_in_a_group_of_their_own_and_end_where_this_process_must() -> None:
    from apache_beam.utils import subprocess_server

    local_runner._shield_servers()
    server = subprocess_server.subprocess.Popen(["sleep", str(2 * PATIENCE)])

    assert os.getpgid(server.pid) == server.pid
    local_runner.end_servers()
    assert server.wait(PATIENCE) == -signal.SIGKILL
