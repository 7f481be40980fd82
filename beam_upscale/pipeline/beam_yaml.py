"""The transforms for Beam YAML: they take and give rows, with the fields of `beam_rows`.

`PROVIDERS` is a listing of them for a pipeline's `providers`:

    providers:
      - include: /…/beam_upscale/providers.yaml

Their configuration has the names and meanings of the transforms' arguments in Python.
"""

import inspect
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, Unpack

import apache_beam as beam

from beam_upscale.dataset.defaults import DEFAULT_SHARD_ROWS
from beam_upscale.dataset.layouts.layout import DEFAULT_LAYOUT, Layout
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.inference.handlers.options import HandlerOptions
from beam_upscale.pipeline import beam_rows, read, upscale, write
from beam_upscale.pipeline.settings.upscale_options import UpscaleOptions
from beam_upscale.planning.engines import DEFAULT_ENGINE
from beam_upscale.sources.formats.input_format import InputFormat

PROVIDERS = Path(__file__).parents[1] / "providers.yaml"
"""The path of the file that lists these transforms."""

_Member = TypeVar("_Member", bound=StrEnum)


class ReadImages(beam.PTransform):
    """Lists images; the workers that upscale them read their bytes.

    Args:
        pattern: A file, a folder or a glob, on any of Beam's file systems, or the URL of a file of
            a web server.
        output: The dataset that the results go to, so that a later run does only the missing
            inputs.
        retry: Statuses of earlier rows whose inputs are upscaled again.
        shard_rows: The number of rows in a shard of that dataset.
        input_format: The name of an `InputFormat`, such as jsonl or webdataset; by default, it is
            inferred from the names of files.
        image_column: The column of tables that holds or names images; by default one with a usual
            name.
        deny_private_networks: True refuses URLs whose host is a worker's own machine or on a
            private network.
        allow_link_local: True allows URLs whose host has a link-local address.
        columns: The columns of the dataset that become fields of the rows, each with its type:
            string, integer, number or boolean. A value that is not of its type is null.

    Returns:
        Rows with `input_id`, `source_uri`, `name`, `columns_json` (all of the dataset's own columns
        as JSON), the columns that were named, and `source`, which carries the input.

    Raises:
        SettingsError: INVALID_OPTION.
    """

    def __init__(
        self,
        pattern: str,
        *,
        output: str | None = None,
        retry: str | Sequence[str] = (),
        shard_rows: int = DEFAULT_SHARD_ROWS,
        input_format: str | None = None,
        image_column: str | None = None,
        deny_private_networks: bool = False,
        allow_link_local: bool = False,
        columns: Mapping[str, str] | None = None,
        **unknown: object,
    ) -> None:
        super().__init__()
        _refuse_unknown(unknown, ReadImages)
        statuses = [retry] if isinstance(retry, str) else retry
        self._read = read.ReadImages(
            pattern,
            output=output,
            retry=[_member(Status, "retry", status) for status in statuses],
            shard_rows=shard_rows,
            input_format=input_format and _member(InputFormat, "input_format", input_format),
            image_column=image_column,
            deny_private_networks=deny_private_networks,
            allow_link_local=allow_link_local,
        )
        self._columns = dict(columns or {})
        self._type = beam_rows.input_type(self._columns)

    def expand(self, root: Any) -> Any:
        """Wires the listing of inputs and their conversion to rows."""
        return (
            root
            | "Read" >> self._read
            | "ToRows" >> beam.Map(beam_rows.input_row, self._columns).with_output_types(self._type)
        )


class Upscale(beam.PTransform):
    """Upscales images.

    Args:
        engine: The name of an engine, or a list of the engines of a chain.
        handler_options: Beam's own options of a model handler.
        scratch: A folder that all workers reach, needed with `fan_out_above`; the output of the
            WriteDataset that follows is one.
        options: The other options, by their names in Python, such as `oversize`, `weights`,
            `device`, `precision`, `prompt`, `output_format`.

    Returns:
        One row for each row, whatever its image's status: the manifest's columns, the fields of the
        input's row except `source` and those with a manifest column's name, `image`, which is the
        encoded image (null with `fan_out_above`, as results are in files then), and `result`, which
        carries the rest.

    Raises:
        SettingsError: for any reason that would make every image fail; INVALID_FIELD, the rows are
            known to have no `source`.
    """

    def __init__(
        self,
        engine: str | Sequence[str] = DEFAULT_ENGINE,
        *,
        handler_options: HandlerOptions | None = None,
        scratch: str | None = None,
        **options: Unpack[UpscaleOptions],
    ) -> None:
        super().__init__()
        size = options.get("skip_larger_than")
        if size is not None:
            width, height = size  # YAML has lists, no tuples.
            options["skip_larger_than"] = (width, height)
        self._upscale = upscale.Upscale(
            engine, handler_options=handler_options, scratch=scratch, **options
        )

    def expand(self, images: Any) -> Any:
        """Wires the steps between rows."""
        beam_rows.require_fields(images, [beam_rows.SOURCE], "Upscale", "ReadImages")
        passed = beam_rows.passed_fields(images.element_type)
        names = [name for name, _ in passed]
        return (
            images
            | "FromRows" >> beam.Map(beam_rows.source_of, names)
            | "Upscale" >> self._upscale
            | "ToRows"
            >> beam.Map(beam_rows.result_row).with_output_types(beam_rows.result_type(passed))
        )


class WriteDataset(beam.PTransform):
    """Writes results as a dataset that survives a crash at any moment.

    Args:
        output: The dataset's root, on any of Beam's file systems.
        layout: The name of a `Layout`, such as files or parquet.
        most_failures: The number of failures that stops the run.
        may_leave_out: True if steps before this one may leave rows out; the manifest's rows then
            say so. False fails the run if a row does not arrive: a runner lost it.

    Returns:
        One row with the totals: `rows`, the number of each status by its name, `calls`, `credits`,
        `billed_credits`, `usd` and `output_bytes`; none if the run was stopped.

    Raises:
        SettingsError: INVALID_OPTION; INVALID_FIELD, the rows are known to have no `result` or no
            `image`; and, when the transform is applied, the output is another run's.
    """

    def __init__(
        self,
        output: str,
        *,
        layout: str = DEFAULT_LAYOUT,
        most_failures: int | None = None,
        may_leave_out: bool = True,
        **unknown: object,
    ) -> None:
        super().__init__()
        _refuse_unknown(unknown, WriteDataset)
        self._write = write.WriteDataset(
            output,
            layout=_member(Layout, "layout", layout),
            most_failures=most_failures,
            may_leave_out=may_leave_out,
        )

    def expand(self, upscaled: Any) -> Any:
        """Wires the writing of results, and the row of totals."""
        beam_rows.require_fields(
            upscaled, [beam_rows.IMAGE, beam_rows.RESULT], "WriteDataset", "Upscale"
        )
        return (
            upscaled
            | "FromRows" >> beam.Map(beam_rows.result_of)
            | "Write" >> self._write
            | "ToRows" >> beam.Map(beam_rows.totals_row).with_output_types(beam_rows.totals_type())
        )


def _refuse_unknown(unknown: Mapping[str, object], transform: type[beam.PTransform]) -> None:
    """Raises an error for options that a transform does not have, and names those that it has."""
    if unknown:
        # The last parameter collects unknown options.
        *known, _ = inspect.signature(transform).parameters
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"unknown option {', '.join(sorted(unknown))}; the options are: {', '.join(known)}",
        )


def _member(kind: type[_Member], name: str, value: str) -> _Member:
    try:
        return kind(value)
    except ValueError:
        raise SettingsError(
            ErrorCode.INVALID_OPTION,
            f"{name} is {value!r}; it must be one of {', '.join(kind)}",
        ) from None
