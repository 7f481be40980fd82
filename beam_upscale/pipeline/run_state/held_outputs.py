"""The outputs of a Beam pipeline, each under the one hold that all its transforms share.

Transforms are applied one by one and do not know each other. So what they share is kept here, by
pipeline, and nowhere else: the hold on each output, which a transform takes as it is applied, and
the outputs that have a `WriteDataset`, so that a second one is refused.
"""

import dataclasses
import weakref
from typing import Any

from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.hold.defaults import DEFAULT_LEASE_SECONDS
from beam_upscale.dataset.hold.hold import Hold, new_token
from beam_upscale.dataset.hold.owners import Kind, state_of_output
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.storage import files


@dataclasses.dataclass(frozen=True)
class _Outputs:
    """The outputs of one pipeline.

    Attributes:
        holds: the holds, by the root of the output.
        written: the roots of the outputs that have a `WriteDataset`.
    """

    holds: dict[str, Hold] = dataclasses.field(default_factory=dict)
    written: set[str] = dataclasses.field(default_factory=set)


_pipelines: "weakref.WeakKeyDictionary[Any, _Outputs]" = weakref.WeakKeyDictionary()


def _outputs_of(pipeline: Any) -> _Outputs:
    return _pipelines.setdefault(pipeline, _Outputs())


def bind(pipeline: Any, hold: Hold) -> None:
    """Makes the transforms of a pipeline write under a hold that was acquired for it."""
    _outputs_of(pipeline).holds[hold.root] = hold


def output_of_pipeline(
    pipeline: Any, output: str, lease_seconds: float | None = None
) -> DatasetFolder:
    """Returns an output of a pipeline's transforms, under the one hold that they share.

    The first transform that names the folder begins the hold, be it as output or as scratch folder.
    If none was bound, the pipeline's workers take the output when they first write to it. The hold
    is final then: Beam pickles a DoFn, and with it the hold, as soon as its transform is applied.

    Args:
        pipeline: Beam's pipeline.
        output: URI or path.
        lease_seconds: the seconds that a transform requests; None takes those of an earlier
            transform, or the default.

    Raises:
        SettingsError: INVALID_OPTION, the hold was begun with other seconds.
    """
    root = files.absolute(output)
    holds = _outputs_of(pipeline).holds
    if root not in holds:
        seconds = DEFAULT_LEASE_SECONDS if lease_seconds is None else lease_seconds
        holds[root] = Hold(root, new_token(), Kind.LEASE, seconds, state_of_output(root))
    hold = holds[root]
    if lease_seconds is not None and lease_seconds != hold.lease_seconds:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"lease_seconds is {lease_seconds:g} here and {hold.lease_seconds:g} in a transform "
            f"before ({DEFAULT_LEASE_SECONDS:g} where none is given), and a pipeline has one hold "
            f"on {root}: name the output in ReadImages(output=...), which comes first, and give "
            "it the same lease_seconds",
        )
    return DatasetFolder(root, hold)


def add_writer(pipeline: Any, dataset: DatasetFolder) -> None:
    """Notes that a pipeline has a `WriteDataset` for an output."""
    _outputs_of(pipeline).written.add(dataset.root)


def refuse_second_writer(pipeline: Any, dataset: DatasetFolder) -> None:
    """Raises an error if an output of a pipeline has a `WriteDataset` already.

    Raises:
        SettingsError: INVALID_OPTION.
    """
    if dataset.root in _outputs_of(pipeline).written:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"two WriteDataset have the output {dataset.root}, and a run has one: give one of "
            "them a tuple of all results, or give them outputs of their own",
        )
