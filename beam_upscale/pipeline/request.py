"""The values `Run` and `RunResult`: a request and its result, without the libraries of a run."""

import dataclasses
import math
from collections.abc import Sequence
from decimal import Decimal

from beam_upscale.dataset.defaults import DEFAULT_GRACE_SECONDS, DEFAULT_SHARD_ROWS
from beam_upscale.dataset.hold.defaults import DEFAULT_LEASE_SECONDS
from beam_upscale.dataset.layouts.layout import DEFAULT_LAYOUT, Layout
from beam_upscale.dataset.manifest.error_counts import ErrorCount
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.dataset.manifest.totals import Totals
from beam_upscale.images.processes.child import usable_cores
from beam_upscale.inference.networks.device import Device
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.sources.formats.input_format import InputFormat

_MOST_WORKERS = 16


@dataclasses.dataclass(frozen=True)
class FailureLimit:
    """The number of failures that stops a run.

    Attributes:
        count: number of rows that are `failed`; None sets no such limit.
        percent: share of all inputs, 0 to 100, if `count` is None; None sets no such limit.
    """

    count: int | None = None
    percent: float | None = None

    def most(self, inputs: int) -> int | None:
        """Returns the number of failures that stops a run over `inputs`; None for no limit."""
        if self.count is not None:
            return self.count
        if self.percent is None:
            return None
        return max(1, math.ceil(self.percent * inputs / 100))


@dataclasses.dataclass(frozen=True)
class Run:
    """The request for a run: its input, its output and its settings.

    Attributes:
        input: a file, a folder or a glob, on any of Beam's file systems, or the URL of a file of a
            web server.
        output: the dataset's root.
        settings: the settings of `Upscale`.
        layout: the way results are stored.
        shard_rows: the number of rows in a shard, at least 1.
        max_credits: the budget for this output, earlier runs included; None sets none.
        retry: statuses of earlier rows whose inputs are upscaled again.
        max_failures: the number of failures that stops the run.
        overwrite: True starts over: it deletes the results of earlier runs into this output.
        workers: parallel workers of the local runner, all in this process, at least 1; None takes
            as many as suit the device.
        input_format: the format of the input; None infers it from names.
        image_column: the column of tables with images; None takes one with a usual name.
        grace_seconds: seconds that begun images may take to finish after SIGTERM, 0 or more.
        beam_options: Beam's own options; with `--runner` among them the local runner is not used.
        lease_seconds: seconds without a sign of life after which another run may take over the
            output. They count if the operating system's locks cannot be used: on several machines,
            or if the output is not on a local disk.
    """

    input: str
    output: str
    settings: UpscaleSettings = dataclasses.field(default_factory=UpscaleSettings)
    layout: Layout = DEFAULT_LAYOUT
    shard_rows: int = DEFAULT_SHARD_ROWS
    max_credits: Decimal | None = None
    retry: frozenset[Status] = frozenset()
    max_failures: FailureLimit = FailureLimit()
    overwrite: bool = False
    workers: int | None = None
    input_format: InputFormat | str | None = None
    image_column: str | None = None
    grace_seconds: float = DEFAULT_GRACE_SECONDS
    beam_options: Sequence[str] = ()
    lease_seconds: float = DEFAULT_LEASE_SECONDS


@dataclasses.dataclass(frozen=True)
class Pace:
    """The work of one run and its time, without the work of earlier runs.

    Attributes:
        seconds: time from the check of the settings to the end of the run.
        images: number of inputs that got a row. If workers are other processes, it is the number
            last reported, a second before the end.
        pixels: input pixels of the images that were upscaled.
    """

    seconds: float
    images: int
    pixels: int


@dataclasses.dataclass(frozen=True)
class RunResult:
    """The result of a run.

    Attributes:
        totals: the sums over all rows of the dataset; if the run was stopped, also over uncommitted
            ones.
        stopped: the reason why the run was stopped before its end; None if it is complete.
        errors: the counts of errors in the same rows, by status and code.
        pace: work and time of this run; None if they are not known.
    """

    totals: Totals
    stopped: str | None = None
    errors: tuple[ErrorCount, ...] = ()
    pace: Pace | None = None


def default_workers(device: Device | None) -> int:
    """Returns the number of local workers for a device; each holds an image and its result.

    On a CPU, one worker decodes or encodes while the network works on another's image. Without a
    device here, at a service, a few workers keep many calls in flight: none waits for its calls.
    """
    if device is None:
        return min(_MOST_WORKERS, max(4, usable_cores()))
    return 2 if device is Device.CPU else min(_MOST_WORKERS, max(2, usable_cores()))
