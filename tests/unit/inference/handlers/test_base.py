"""Batches of RunInference."""

import dataclasses

import apache_beam as beam
import numpy as np
import pytest
from esrgan_calls import whole
from small_networks import noise

from beam_upscale.inference.elements import TiledImage
from beam_upscale.inference.handlers.esrgan import EsrganHandler
from beam_upscale.inference.local_engines import EsrganEngine


def test_batches_of_run_inference_count_pixels(engine: EsrganEngine) -> None:
    on_gpu = dataclasses.replace(engine, max_batch_pixels=1000)

    bounds = EsrganHandler(on_gpu).batch_elements_kwargs()

    assert (bounds["min_batch_size"], bounds["max_batch_size"]) == (2000, 2000)
    assert bounds["element_size_fn"](whole(noise(8, 9, 3))) == 72
    assert bounds["element_size_fn"](TiledImage([], 1)) == 2000 // 64


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ({"max_batch_size": 500}, (500, 500)),
        ({"min_batch_size": 5000}, (5000, 5000)),
        ({"min_batch_size": 10}, (10, 2000)),
        ({"min_batch_size": 10, "max_batch_size": 20}, (10, 20)),
    ],
)
def test_bounds_that_are_asked_for_hold(
    engine: EsrganEngine, asked: dict[str, int], given: tuple[int, int]
) -> None:
    engine = dataclasses.replace(engine, max_batch_pixels=1000)

    bounds = EsrganHandler(engine, **asked).batch_elements_kwargs()

    assert (bounds["min_batch_size"], bounds["max_batch_size"]) == given
    beam.BatchElements(**bounds)  # Raises where the bounds cross.


def test_a_model_is_shared_where_that_is_asked_for(engine: EsrganEngine) -> None:
    assert not EsrganHandler(engine).share_model_across_processes()
    assert EsrganHandler(engine, large_model=True).share_model_across_processes()
    assert EsrganHandler(engine, model_copies=2).model_copies() == 2
    assert EsrganHandler(engine, model_copies=2).share_model_across_processes()


def test_bytes_of_a_batch_are_those_of_its_tiles(engine: EsrganEngine) -> None:
    batch = [whole(noise(8, 8, 3)), whole(noise(8, 8, 1, dtype=np.uint16)), TiledImage([], 1)]

    assert EsrganHandler(engine).get_num_bytes(batch) == 8 * 8 * 3 + 8 * 8 * 2
