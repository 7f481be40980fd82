"""One run from a folder to a dataset: what `beam-upscale run` does, for callers from Python too."""

import dataclasses
import importlib.metadata
import platform
import shutil
import threading
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import DirectOptions, PipelineOptions, StandardOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

from beam_upscale import storage
from beam_upscale.budget import LimitCredits
from beam_upscale.control import (
    HeedStop,
    Progress,
    clear_stop,
    read_progress,
    request_stop,
)
from beam_upscale.dataset import DatasetFolder
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.manifest import totals
from beam_upscale.models.device import Device, Precision
from beam_upscale.request import Run, RunResult
from beam_upscale.settings import PinnedSettings, UpscaleSettings
from beam_upscale.sinks import WriteDataset, new_run_id
from beam_upscale.sources import ReadImages, list_images
from beam_upscale.transforms import Upscale

_SECONDS_BETWEEN_LOOKS = 0.5

# What a run leaves below its output, besides run.json.
_RESULTS = ("README.md", "images", "data", "manifest", "telemetry")

_PACKAGES = (
    "apache-beam",
    "beam-upscale",
    "numpy",
    "pillow",
    "pillow-heif",
    "pyarrow",
    "pyvips-binary",
    "spandrel",
    "torch",
)


def run(
    request: Run,
    on_start: Callable[[PinnedSettings, int, int], None] = lambda *_: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> RunResult:
    """Runs to the end, or to where it is stopped.

    A KeyboardInterrupt stops the run cleanly: images that are begun are finished, a second one is
    raised at once.

    Args:
        request: what to run.
        on_start: called before the first image, with the settings, the number of inputs and that
            of the files left out.
        on_progress: called about twice a second.

    Raises:
        SettingsError: nothing was begun; the error says why.
        Exception: the pipeline broke, for a full disk perhaps. What was finished is kept, and the
            same run goes on from there.
    """
    dataset = DatasetFolder(storage.absolute(request.output))
    earlier = None if request.overwrite else dataset.read_run()
    settings = _pin(request.settings, earlier)
    record = _record(request, settings)
    _refuse_changes(earlier, record)
    listing = list_images(request.input, exclude=dataset.root)
    if not listing.images:
        raise SettingsError(
            ErrorCode.NO_INPUT,
            f"{request.input} holds no images ({listing.ignored} other files)",
        )
    _refuse_foreign_files(dataset)
    if request.overwrite:
        _clear(dataset)
    dataset.write_json(dataset.run_json, {**record, "complete": False})
    clear_stop(dataset)
    settings = _with_reachable_weights(settings, dataset, request)
    on_start(settings, len(listing.images), listing.ignored)
    run_id = new_run_id()
    pipeline = _pipeline(request, settings, record, run_id)
    stopped = _watch(pipeline, request, dataset, run_id, len(listing.images), on_progress)
    after = dataset.read_run() or {}
    if after.get("complete"):
        return RunResult(totals(row for _, row in dataset.committed_rows()))
    return RunResult(
        totals(row for _, row in dataset.committed_rows()),
        stopped or "the pipeline ended before every input had a row",
    )


def _pin(settings: UpscaleSettings, earlier: Mapping[str, Any] | None) -> PinnedSettings:
    """Pins settings; what an earlier run into the same output pinned stays."""
    if earlier is None:
        return settings.pin()
    model = earlier["settings"]["model"]
    return dataclasses.replace(
        settings,
        device=Device(model["device"]) if settings.device is Device.AUTO else settings.device,
        precision=(
            Precision(model["precision"])
            if settings.precision is Precision.AUTO
            else settings.precision
        ),
        threads=settings.threads or model["threads"],
    ).pin()


def _record(request: Run, settings: PinnedSettings) -> dict[str, Any]:
    """What `run.json` says of a run before its first image."""
    return {
        "settings": settings.to_dict(),
        "layout": str(request.layout),
        "shard_rows": request.shard_rows,
        "max_credits": None if request.max_credits is None else str(request.max_credits),
        "versions": _versions(),
    }


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def _refuse_changes(earlier: Mapping[str, Any] | None, record: Mapping[str, Any]) -> None:
    """Raises where results of this run would not fit those that are there."""
    if earlier is None:
        return
    compared = ("settings", "layout", "shard_rows")
    before = _flatten({name: earlier.get(name) for name in compared})
    now = _flatten({name: record[name] for name in compared})
    changes = [
        f"{name}: {before.get(name)} -> {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changes:
        raise SettingsError(
            ErrorCode.SETTINGS_CHANGED,
            "the output was begun with other settings, and its images would not match: "
            f"{'; '.join(changes)}. Take another output, the earlier settings, or --overwrite",
        )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _refuse_foreign_files(dataset: DatasetFolder) -> None:
    """Raises where files that no run left have the names of what a run writes or clears."""
    if storage.exists(dataset.run_json):
        return
    taken = [name for name in _RESULTS if _is_taken(dataset.resolve(name))]
    if taken:
        raise SettingsError(
            ErrorCode.OUTPUT_TAKEN,
            f"{dataset.root} has {', '.join(taken)}, but no run.json: no run left that, and none "
            "replaces it. Take another output, or move it away",
        )


def _is_taken(uri: str) -> bool:
    return storage.exists(uri) or any(True for _ in storage.list_below(uri))


def _clear(dataset: DatasetFolder) -> None:
    # Last what tells that all this was left by a run.
    for name in (*_RESULTS, ".staging", "run.json"):
        storage.delete(dataset.resolve(name))


def _is_local(request: Run) -> bool:
    return PipelineOptions(list(request.beam_options)).view_as(StandardOptions).runner is None


def _with_reachable_weights(
    settings: PinnedSettings, dataset: DatasetFolder, request: Run
) -> PinnedSettings:
    """Puts the weights where every worker finds them: beside the work in progress."""
    if _is_local(request) or not storage.is_local(settings.model.weights_uri):
        return settings
    path = PurePosixPath(settings.model.weights_uri)
    uri = storage.join(dataset.staging, "weights", settings.model.weights_sha256 + path.suffix)
    if not storage.exists(uri):
        with storage.open_read(str(path)) as weights, storage.publish(uri) as file:
            shutil.copyfileobj(weights, file)
    model = dataclasses.replace(settings.model, weights_uri=uri)
    return dataclasses.replace(settings, model=model)


def _pipeline(
    request: Run, settings: PinnedSettings, record: Mapping[str, Any], run_id: str
) -> beam.Pipeline:
    dataset = DatasetFolder(storage.absolute(request.output))
    options = PipelineOptions(list(request.beam_options))
    runner = None
    if _is_local(request):
        # Beam's own default first looks for a runner's binary on the network.
        runner = FnApiRunner()
        direct = options.view_as(DirectOptions)
        direct.direct_num_workers = request.workers
        direct.direct_running_mode = "multi_threading" if request.workers > 1 else "in_memory"
    pipeline = beam.Pipeline(runner=runner, options=options)
    images = pipeline | ReadImages(
        request.input, output=request.output, retry=request.retry, shard_rows=request.shard_rows
    )
    if request.max_credits is not None:
        images |= LimitCredits(request.max_credits, settings.engine, settings.plan)
    (
        images
        | "HeedStop" >> beam.ParDo(HeedStop(dataset))
        | Upscale(settings)
        | WriteDataset(request.output, request.layout, run=record, run_id=run_id)
    )
    return pipeline


class _Execution(threading.Thread):
    """A pipeline that runs while this process watches it."""

    def __init__(self, pipeline: beam.Pipeline) -> None:
        super().__init__(name="pipeline", daemon=True)
        self._pipeline = pipeline
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._pipeline.run().wait_until_finish()
        except BaseException as error:  # Raised again by whoever waits.
            self.error = error


def _watch(
    pipeline: beam.Pipeline,
    request: Run,
    dataset: DatasetFolder,
    run_id: str,
    inputs: int,
    on_progress: Callable[[Progress], None],
) -> str | None:
    """Waits for a pipeline; returns why it was asked to stop, if it was."""
    execution = _Execution(pipeline)
    execution.start()
    stopped = None
    while execution.is_alive():
        try:
            execution.join(_SECONDS_BETWEEN_LOOKS)
            if not execution.is_alive():
                # With a completed run its progress files are gone.
                break
            done = read_progress(dataset, run_id)
            on_progress(done)
            if stopped is None and request.max_failures.reached(done.failures, inputs):
                stopped = f"{done.failures} of {inputs} inputs failed (--max-failures)"
                request_stop(dataset, stopped)
        except KeyboardInterrupt:
            if stopped is not None:
                raise
            stopped = "interrupted"
            request_stop(dataset, stopped)
    if execution.error is not None:
        raise execution.error
    return stopped
