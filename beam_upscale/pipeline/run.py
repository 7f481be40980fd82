"""Executes one run from a folder to a dataset, for `beam-upscale run` and for Python callers."""

import dataclasses
import itertools
import signal
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

import apache_beam as beam
import pyarrow as pa
from apache_beam.options.pipeline_options import PipelineOptions

from beam_upscale.dataset import book_files, book_sums, books
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.manifest.error_counts import ErrorTally
from beam_upscale.dataset.manifest.own_columns import infer_input_type
from beam_upscale.dataset.output_hold import hold_output, untouched_on_failure
from beam_upscale.dataset.paths.output_files import RESULTS
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.errors import SettingsError, reason
from beam_upscale.inference import shared_weights
from beam_upscale.inference.local_engines import LocalEngine, NetworkEngine
from beam_upscale.pipeline.budget import LimitCredits, spent
from beam_upscale.pipeline.execution import Execution, ask_to_stop, watch
from beam_upscale.pipeline.local_runner import end_servers, new_pipeline, runs_here
from beam_upscale.pipeline.read import FindDone, ListingRequest, ReadListed, write_down
from beam_upscale.pipeline.request import Pace, Run, RunResult, default_workers
from beam_upscale.pipeline.run_state.held_outputs import bind, output_of_pipeline
from beam_upscale.pipeline.run_state.progress import Progress, final_progress
from beam_upscale.pipeline.run_state.stop import (
    PostponeAfterStop,
    clear_stop,
    forget_stop,
    stop_reason,
)
from beam_upscale.pipeline.settings.large_image_options import refuse_packed
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.run_start import continue_run, new_run, refuse_foreign_files
from beam_upscale.pipeline.settings.service import check_service
from beam_upscale.pipeline.settings.settings_json import read_choices
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings
from beam_upscale.pipeline.termination import TERMINATED, TerminatedError, Termination
from beam_upscale.pipeline.upscale import UpscaleForRun
from beam_upscale.pipeline.write import WriteDataset, new_run_id
from beam_upscale.planning.ranges import check_not_negative
from beam_upscale.sources.discovery import no_input
from beam_upscale.sources.inputs.found_inputs import Listing, require_prompt_column
from beam_upscale.sources.inputs.input_scope import refuse_needed_in_results
from beam_upscale.storage import files
from beam_upscale.storage.stores import store_of
from beam_upscale.storage.uris import uris


def run(
    request: Run,
    on_start: Callable[[PinnedSettings, Listing], None] = lambda *_: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> RunResult:
    """Runs a request to its end, or until it is stopped.

    A KeyboardInterrupt stops the run cleanly: begun images are finished. A second one is raised at
    once. In the main thread, SIGTERM also stops the run cleanly, within `Run.grace_seconds`; the
    previous handler is restored at the end.

    Args:
        request: the request for the run.
        on_start: called before the first image, with the settings and the inputs.
        on_progress: called about twice a second with the progress so far.
        on_note: called with one line for the user, such as that of a wait for another run.

    Raises:
        SettingsError: nothing was begun; the error says why.
        Exception: the pipeline broke, perhaps because of a full disk. Finished work is kept, and
            the same run goes on from there.
        TerminatedError: SIGTERM came before anything was begun, or the grace is over. It is a
            SystemExit.
    """
    check_not_negative(grace_seconds=request.grace_seconds)
    with Termination(request.grace_seconds) as termination:
        try:
            return _run(request, on_start, on_progress, on_note, termination)
        except (KeyboardInterrupt, TerminatedError):
            end_servers()
            raise
        except Exception as error:
            if not termination.is_asked:
                raise
            raise TerminatedError from error


def _run(
    request: Run,
    on_start: Callable[[PinnedSettings, Listing], None],
    on_progress: Callable[[Progress], None],
    on_note: Callable[[str], None],
    termination: Termination,
) -> RunResult:
    begun = time.monotonic()
    files.configure(request.beam_options)
    is_here = runs_here(request.beam_options)
    seconds = request.lease_seconds
    with hold_output(
        request.output, in_this_process=is_here, lease_seconds=seconds, on_wait=on_note
    ) as dataset:
        with untouched_on_failure(dataset):
            ready = _ready(request, dataset)
        if request.overwrite:
            _clear(dataset, on_note)
        return _carry_out(request, ready, dataset, on_start, on_progress, termination, begun)


@dataclasses.dataclass(frozen=True)
class _Ready:
    """The checked parts of a run before it begins.

    Attributes:
        settings: the pinned settings.
        pipeline: the pipeline, without steps.
        run_json: the content of `run.json` at the start.
        listing: the inputs.
    """

    settings: PinnedSettings
    pipeline: beam.Pipeline
    run_json: RunJson
    listing: Listing


def _ready(request: Run, dataset: DatasetFolder) -> _Ready:
    """Checks everything that could forbid the run.

    Raises:
        SettingsError: the run is refused.
    """
    earlier = None if request.overwrite else dataset.read_run()
    choices = () if earlier is None else read_choices(earlier.settings)
    settings = _with_workers(request).pin(choices)
    refuse_packed(settings, request.layout)
    pipeline = _new_pipeline(request, settings)
    run_json = new_run(settings, request.layout, request.shard_rows, request.max_credits)
    if earlier is not None:
        run_json = continue_run(earlier, run_json)
    listing_request = ListingRequest(
        request.input, request.input_format, request.image_column, dataset, request.shard_rows
    )
    listing = listing_request.listing()
    if not listing.images:
        raise no_input(request.input, listing)
    require_prompt_column(listing, settings.rules)
    refuse_foreign_files(dataset)
    refuse_needed_in_results(_needed(request, settings, listing), dataset)
    if settings.service_engine is not None and not request.overwrite:
        book_files.check(dataset)
    settings = check_service(settings)
    return _Ready(settings, pipeline, run_json, listing)


def _carry_out(
    request: Run,
    ready: _Ready,
    dataset: DatasetFolder,
    on_start: Callable[[PinnedSettings, Listing], None],
    on_progress: Callable[[Progress], None],
    termination: Termination,
    begun: float,
) -> RunResult:
    listing, pipeline, run_json = ready.listing, ready.pipeline, ready.run_json
    if ready.settings.service_engine is not None:
        _open_books(dataset)
    dataset.write_run(run_json)
    clear_stop(dataset)
    write_down(listing.images, dataset, request.shard_rows)
    settings = _with_reachable_weights(ready.settings, dataset, request)
    on_start(settings, listing)
    run_id = new_run_id()
    most_failures = request.max_failures.most(len(listing.images))
    input_type = _input_type(listing, dataset)
    assert dataset.hold is not None
    bind(pipeline, dataset.hold)
    wire_run(pipeline, request, settings, run_json, run_id, most_failures, input_type)
    termination.begin(lambda: ask_to_stop(dataset, TERMINATED))
    execution = Execution(_begin(pipeline, request))
    heard = watch(execution, dataset, run_id, most_failures, on_progress, termination)
    done = final_progress(dataset, run_id, heard)
    pace = Pace(time.monotonic() - begun, done.images - done.earlier, done.pixels)
    errors = ErrorTally()
    ended = dataset.read_run()
    if ended is not None and ended.complete:
        forget_stop(dataset)
        totals = book_sums.with_books(dataset.totals(errors), dataset)
        return RunResult(totals, errors=errors.counts(), pace=pace)
    why = stop_reason(dataset) or "the pipeline ended before every input had a row"
    totals = book_sums.with_books(dataset.unfinished_totals(errors), dataset)
    dataset.write_run(dataclasses.replace(run_json, totals=totals))
    return RunResult(totals, why, errors.counts(), pace)


def _open_books(dataset: DatasetFolder) -> None:
    """Enters the credits of earlier runs in the books, before their rows can be replaced."""
    if not books.are_kept(dataset.read_run()):
        books.enter_missing(dataset.unfinished_rows(), dataset)
    if books.exist(dataset):
        books.close(dataset)


def _input_type(listing: Listing, dataset: DatasetFolder) -> pa.StructType | None:
    """Infers the type of all own columns, also those of inputs that are gone but keep a row."""
    gone = dataset.columns_of_others(listing.images.ids)
    return infer_input_type(itertools.chain((source.columns for source in listing.images), gone))


def _needed(request: Run, settings: PinnedSettings, listing: Listing) -> Iterator[tuple[str, str]]:
    """Yields files besides the inputs that must not be among the results that are replaced."""
    for stage in settings.stages:
        if isinstance(stage.pinned, NetworkEngine):
            yield f"the weights of {stage.engine.name} are", stage.pinned.weights_uri
    link = listing.link_into_output
    if request.overwrite and link is not None:
        yield "--overwrite would delete what the input leads to by the link", link


def _clear(dataset: DatasetFolder, on_note: Callable[[str], None]) -> None:
    for note in _spent_before(dataset):
        on_note(f"the books of {dataset.root} start over; {note}")
    # run.json is deleted last: while it exists, the other files are known to be a run's.
    dataset.clear_staging()
    for name in RESULTS:
        dataset.delete(dataset.resolve(name))


def _spent_before(dataset: DatasetFolder) -> Iterator[str]:
    """Yields notes on the credits spent on results that are to be deleted."""
    try:
        sums = book_sums.read_sums(dataset)
        if sums.spent:
            yield (
                f"the old ones held {sums.charged} credits charged and {sums.unresolved} unresolved"
            )
        elif _may_lack_calls(dataset):
            rows = dataset.unfinished_rows()
            billed = sum((row.billed_credits for row in rows), Decimal(0))
            if billed:
                yield f"there were none, and {billed} credits were billed by its rows"
    except Exception as error:  # Damaged books are to be deleted, too.
        yield f"the old books could not be read: {reason(error)}"


def _may_lack_calls(dataset: DatasetFolder) -> bool:
    """Checks whether the books may lack paid calls of an earlier version of this package."""
    try:
        run_json = dataset.read_run()
    except SettingsError:  # A later version wrote it, and would keep books as this one does.
        return False
    return run_json is not None and run_json.books is None


def _with_workers(request: Run) -> UpscaleSettings:
    """Returns the settings, completed by the runner's number and place of workers."""
    asked = request.settings
    is_remote = not runs_here(request.beam_options)
    return dataclasses.replace(
        asked,
        local=dataclasses.replace(asked.local, remote_workers=is_remote),
        service=dataclasses.replace(asked.service, worker_processes=_worker_processes(request)),
    )


def _worker_processes(request: Run) -> int | None:
    """Returns the number of processes that share a limit on the rate of calls, if it is known."""
    asked = request.settings.service.worker_processes
    if asked is not None:
        return asked
    if runs_here(request.beam_options):
        return 1
    known = PipelineOptions(list(request.beam_options)).get_all_options().get("parallelism")
    return None if known is None or known < 1 else int(known)


def _with_reachable_weights(
    settings: PinnedSettings, dataset: DatasetFolder, request: Run
) -> PinnedSettings:
    """Copies the weights to where every worker can read them: beside the work in progress."""
    if runs_here(request.beam_options):
        return settings
    stages = tuple(
        dataclasses.replace(stage, pinned=_with_uploaded_weights(stage.pinned, dataset))
        if isinstance(stage.pinned, NetworkEngine)
        else stage
        for stage in settings.stages
    )
    return dataclasses.replace(settings, stages=stages)


def _with_uploaded_weights(engine: NetworkEngine, dataset: DatasetFolder) -> NetworkEngine:
    if not store_of(engine.weights_uri).is_local:
        return engine
    path = Path(engine.weights_uri)
    # A folder's name may have a dot in it.
    suffix = path.suffix if path.is_file() else ""
    uri = uris.join(dataset.staging, "weights", engine.weights_sha256 + suffix)
    shared_weights.put(path, uri)
    return dataclasses.replace(engine, weights_uri=uri)


def _new_pipeline(request: Run, settings: PinnedSettings) -> beam.Pipeline:
    first = settings.stages[0].pinned
    device = first.device if isinstance(first, LocalEngine) else None
    return new_pipeline(request.beam_options, request.workers or default_workers(device))


def wire_run(
    pipeline: beam.Pipeline,
    request: Run,
    settings: PinnedSettings,
    run_json: RunJson,
    run_id: str,
    most_failures: int | None,
    input_type: pa.StructType | None,
) -> None:
    """Wires all steps of a run, from its listing to its dataset.

    Args:
        pipeline: the pipeline, without steps so far.
        request: the request for the run; its settings are not read.
        settings: the pinned settings.
        run_json: the values of `run.json`.
        run_id: the run's id.
        most_failures: the number of failures that stops the run; None sets none.
        input_type: the type of the dataset's own columns; None is inferred shard by shard.
    """
    dataset = output_of_pipeline(pipeline, request.output)
    engine = settings.service_engine
    sources = pipeline | ReadListed(request.output, retry=request.retry, engine=engine)
    if request.max_credits is not None:
        sources |= LimitCredits(
            request.max_credits,
            settings.rules,
            request.output,
            engine,
            already_spent=spent(request.output, engine),
        )
        sources |= "FindDone" >> beam.ParDo(FindDone(dataset, frozenset(request.retry), engine))
    (
        sources
        | "PostponeAfterStop" >> beam.ParDo(PostponeAfterStop(dataset))
        | "Upscale" >> UpscaleForRun(settings, request.output)
        | WriteDataset(
            request.output,
            request.layout,
            input_type=input_type,
            run=run_json.to_json(),
            run_id=run_id,
            most_failures=most_failures,
            may_leave_out=False,
        )
    )


def _begin(pipeline: beam.Pipeline, request: Run) -> Callable[[], object]:
    """Submits a pipeline; returns a function that runs or awaits it to its end.

    A runner that starts a server of its own sets a signal handler, which only the main thread may
    do. That handler would end the server at the first Ctrl-C, so the previous one is restored: this
    process handles Ctrl-C itself.
    """
    if runs_here(request.beam_options):
        return lambda: pipeline.run().wait_until_finish()
    handler = signal.getsignal(signal.SIGINT)
    try:
        result = pipeline.run()
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, handler)
    finish: Callable[[], object] = result.wait_until_finish
    return finish
