"""What is counted of calls."""

from pathlib import Path

import pytest
from serving import ENGINE, PATIENCE, connected, request, serving
from waits import until

from beam_upscale.server.accounts.keys import add_key
from beam_upscale.server.worker import Worker


def test_metrics_count_calls(worker: Worker, tmp_path: Path, image: bytes) -> None:
    import urllib.request

    keys = {"keys": tmp_path / "keys.jsonl", "ledger": tmp_path / "ledger.sqlite"}
    token = add_key(keys["keys"], "one")
    with serving(worker, **keys, metrics_port=0) as server, connected(server, token) as client:
        for number in (1, 2, 2):
            client.upscale(request(image, request_id=f"{number}"))
        client.refused(request(b"x"))
        url = server.listening.addresses.metrics
        assert url is not None and url.startswith("http://127.0.0.1:")

        def read() -> dict[str, float]:
            text = urllib.request.urlopen(url, timeout=PATIENCE).read().decode()
            lines = [line.rsplit(" ", 1) for line in text.splitlines() if line[0] != "#"]
            return {name.removeprefix("beam_upscale_"): float(value) for name, value in lines}

        # A caller has its status a moment before its call is counted.
        until(lambda: read()["in_flight"] == 0)
        found = read()

    of_engine = f'{{engine="{ENGINE}"}}'
    assert found['calls_total{code="OK",method="Generate"}'] == 3
    assert found['calls_total{code="INVALID_ARGUMENT",method="Generate"}'] == 1
    assert found['refusals_total{reason="IMAGE_REFUSED"}'] == 1
    assert found[f"images_total{of_engine}"] == 2
    assert found[f"input_pixels_total{of_engine}"] == 2 * 40 * 30
    assert found[f'credits_total{{engine="{ENGINE}",key="one"}}'] == pytest.approx(0.4)
    assert found["replays_total"] == 1
    assert found[f"device_seconds_count{of_engine}"] == 2
    assert found["in_flight"] == found["queued"] == 0
    assert found["process_resident_memory_bytes"] > 0
