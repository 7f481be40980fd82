"""Metrics for Prometheus, in a registry of their own."""

import dataclasses

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
)

_PREFIX = "beam_upscale"

# Seconds: from a small image on a GPU to a large one by diffusion on a CPU.
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)


@dataclasses.dataclass(frozen=True, eq=False)
class Metrics:
    """The metrics of a server; all names begin with `beam_upscale_`.

    Attributes:
        registry: the registry of these metrics and of those of the process.
        calls: answered calls, by method and status code.
        refusals: answered calls that were refused with a reason, by reason.
        call_seconds: time from a call's arrival to its end, by method.
        in_flight: calls that have arrived and not ended.
        queued: calls that wait for a device.
        queue_seconds: time that calls wait for a device and their turn on it, by engine or chain.
        device_seconds: an image's share of the time of its batches, by engine or chain.
        batch_size: the most tiles in a batch that an image was in, by engine or chain.
        images: upscaled images, by engine or chain, without repeats answered from the ledger.
        replays: repeats that were answered from the ledger, or by the call that they repeat.
        input_pixels: input pixels of upscaled images, by engine or chain.
        request_bytes: bytes of requests that arrived whole.
        result_bytes: bytes of results.
        credits: charged credits, by key and by engine or chain.
        abandoned: calls whose callers had gone before their turn.
    """

    registry: CollectorRegistry
    calls: Counter
    refusals: Counter
    call_seconds: Histogram
    in_flight: Gauge
    queued: Gauge
    queue_seconds: Histogram
    device_seconds: Histogram
    batch_size: Histogram
    images: Counter
    replays: Counter
    input_pixels: Counter
    request_bytes: Counter
    result_bytes: Counter
    credits: Counter
    abandoned: Counter

    @classmethod
    def create(cls) -> "Metrics":
        """Creates metrics that are all at zero."""
        registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        PlatformCollector(registry=registry)
        GCCollector(registry=registry)

        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(f"{_PREFIX}_{name}", help_, labels, registry=registry)

        def histogram(
            name: str, help_: str, *labels: str, buckets: tuple[float, ...] = _SECONDS
        ) -> Histogram:
            return Histogram(f"{_PREFIX}_{name}", help_, labels, buckets=buckets, registry=registry)

        def gauge(name: str, help_: str) -> Gauge:
            return Gauge(f"{_PREFIX}_{name}", help_, registry=registry)

        return cls(
            registry=registry,
            calls=counter("calls", "Answered calls.", "method", "code"),
            refusals=counter("refusals", "Refused calls that give a reason.", "reason"),
            call_seconds=histogram("call_seconds", "From arrival to end.", "method"),
            in_flight=gauge("in_flight", "Calls that have arrived and not ended."),
            queued=gauge("queued", "Calls that wait for a device."),
            queue_seconds=histogram("queue_seconds", "Waits for a device.", "engine"),
            device_seconds=histogram("device_seconds", "An image's share of batches.", "engine"),
            batch_size=histogram(
                "batch_size", "Tiles in a batch with an image's.", "engine", buckets=_BATCH_SIZES
            ),
            images=counter("images", "Images upscaled.", "engine"),
            replays=counter("replays", "Repeats answered without computing."),
            input_pixels=counter("input_pixels", "Of images upscaled.", "engine"),
            request_bytes=counter("request_bytes", "Of requests that arrived whole."),
            result_bytes=counter("result_bytes", "Of results."),
            credits=counter("credits", "Charged.", "key", "engine"),
            abandoned=counter("abandoned", "Calls whose callers went before their turn."),
        )
