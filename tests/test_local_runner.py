"""Beam's runner in this process, with several threads."""

import time
from typing import Any

import apache_beam as beam
from apache_beam.testing.util import assert_that, equal_to

from beam_upscale.local_runner import new_pipeline

ELEMENTS = 150


class Slow:
    """Takes its time to be written, behind the key that is written before it."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        time.sleep(0.02)
        return Slow, (self.number,)


def emitted(worker: int) -> list[tuple[int, Slow]]:
    return [(number, Slow(worker)) for number in range(ELEMENTS)]


def test_what_is_sent_while_it_is_written_arrives_whole() -> None:
    pipeline = new_pipeline([], workers=2)
    workers_by_key = (
        pipeline
        | beam.Create([0, 1])
        | beam.FlatMap(emitted)
        | beam.GroupByKey()
        | beam.MapTuple(lambda key, values: (key, sorted(value.number for value in values)))
    )

    assert_that(workers_by_key, equal_to([(number, [0, 1]) for number in range(ELEMENTS)]))
    pipeline.run().wait_until_finish()
