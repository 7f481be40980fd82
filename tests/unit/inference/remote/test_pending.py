import pickle

import numpy as np
from scripted_service import (
    ONE_CALL,
    PATIENCE,
    Held,
    answer,
    begin,
    doubled,
    handler_of,
    noise,
    sent,
    service_with,
    whole,
)

from beam_upscale.inference.elements import Inference, Tile, TiledImage
from beam_upscale.planning.tile_layout import Box


def test_cores_and_ids_come_in_the_order_of_the_tiles() -> None:
    tiles = [Tile(noise(4 + n, 8), Box(0, 0, 8, 4 + n)) for n in range(6)]
    first = Held()
    with service_with(first, answer) as service:
        handler = handler_of(service)
        (pending,) = begin(handler, [TiledImage(tiles, scale=2, identity=("a", 0))])
        assert first.begun.wait(PATIENCE)
        assert not pending.wait(0.1)
        assert not pending.done()
        first.go_on.set()
        inference = pending.result()
        ids = {len(request.prompt[0].artifact.binary): request for request in service.requests}

    assert [core.shape[0] for core in inference.cores] == [8 + 2 * n for n in range(6)]
    assert inference.billed_credits == 6 * ONE_CALL
    assert len(set(inference.request_ids)) == len(ids) == 6
    heights = {request.request_id: len(sent(request)) for request in service.requests}
    assert [heights[request_id] for request_id in inference.request_ids] == list(range(4, 10))


def test_an_image_without_tiles_passes_and_calls_nothing() -> None:
    with service_with() as service:
        handler = handler_of(service)
        (pending,) = begin(handler, [TiledImage([], 1)])

        assert pending.done()
        assert pending.wait(0)
        assert pending.result() == Inference()
        assert begin(handler, []) == []
        assert service.requests == []


def test_a_pending_image_is_pickled_as_what_became_of_it() -> None:
    with service_with() as service:
        (pending,) = begin(handler_of(service), [whole("a")])
        inference = pickle.loads(pickle.dumps(pending))

    assert type(inference) is Inference
    assert np.array_equal(inference.cores[0], doubled(noise()))
    assert inference.billed_credits == ONE_CALL
