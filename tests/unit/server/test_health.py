"""What a server says of its health."""

import grpc
from serving import SERVING, connected, failed, health, serving

from beam_upscale.server.worker import Worker


def test_health_is_told_for_each_service(worker: Worker) -> None:
    with serving(worker) as server, connected(server) as client:
        known = [health(client, name) for name in ("", "gooseai.GenerationService")]
        error = failed(lambda: health(client, "no.such.Service"))

    assert known == [SERVING, SERVING]
    assert error.code() is grpc.StatusCode.NOT_FOUND
