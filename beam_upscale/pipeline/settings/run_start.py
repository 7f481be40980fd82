"""Makes the `run.json` of a run at its start, and compares it with that of an earlier run."""

import dataclasses
import importlib.metadata
import json
import platform
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from beam_upscale.dataset import books
from beam_upscale.dataset.folder import DatasetFolder
from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.paths.output_files import BOOKS, RESULTS
from beam_upscale.dataset.run_json import RunJson
from beam_upscale.errors import ErrorCode, SettingsError
from beam_upscale.pipeline.settings.pinned import PinnedSettings
from beam_upscale.pipeline.settings.settings_json import settings_to_json
from beam_upscale.planning.plan_options import Oversize
from beam_upscale.storage import files

_PACKAGES = (
    "apache-beam",
    "beam-upscale",
    "deflate",
    "diffusers",
    "numpy",
    "openvino",
    "pillow",
    "pillow-heif",
    "pyarrow",
    "pyvips-binary",
    "spandrel",
    "torch",
    "transformers",
    "zlib-ng",
)

_OVERSIZE = "settings.plan.oversize"

# Guards decide whether an input is done, never how, so they may change. `oversize` is compared by
# its effect on the results so far.
_FREE = frozenset({"settings.plan.max_input_pixels", "settings.plan.max_input_bytes", _OVERSIZE})


def new_run(
    settings: PinnedSettings | None,
    layout: Layout,
    shard_rows: int | None = None,
    max_credits: Decimal | None = None,
) -> RunJson:
    """Returns the content of `run.json` before the first image; equal runs give equal contents."""
    return RunJson(
        settings=None if settings is None else settings_to_json(settings),
        endpoint=None if settings is None else settings.endpoint,
        layout=str(layout),
        shard_rows=shard_rows,
        max_credits=None if max_credits is None else str(max_credits),
        versions=_versions(),
        books=books.BOOKS_FORMAT,
    )


def _versions() -> dict[str, str]:
    versions = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def continue_run(earlier: RunJson, run: RunJson) -> RunJson:
    """Returns the content of `run.json` for a run that goes on where an earlier one ended.

    Args:
        earlier: the present content of `run.json`.
        run: the content for this run.

    Returns:
        The content. If this run rejects images that earlier runs cut or shrank, `earlier_oversize`
        says which they did: a later run may not do the other.

    Raises:
        SettingsError: SETTINGS_CHANGED, results of this run would not match the existing ones; the
            message has every difference. BOOKS_UNKNOWN, a later version wrote the books.
    """
    books.are_kept(earlier)
    before, now = _flatten(_compared(earlier)), _flatten(_compared(run))
    changes = [
        f"{name}: {before.get(name)} -> {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if _is_change(name, before.get(name), now.get(name))
    ]
    earlier_rule, rule = _oversize_rule(earlier), _oversize_rule(run)
    if earlier_rule and rule and earlier_rule != rule:
        # A rejected image may be cut or shrunk later, but one output must not mix cut and shrunk.
        changes.append(f"{_OVERSIZE}: {earlier_rule} -> {rule}")
    if changes:
        raise SettingsError(
            ErrorCode.SETTINGS_CHANGED,
            "the output was begun with other settings, and its images would not match: "
            f"{'; '.join(changes)}. Take another output, the earlier settings, or --overwrite",
        )
    if earlier_rule and not rule:
        return dataclasses.replace(run, earlier_oversize=earlier_rule)
    return run


def _compared(run: RunJson) -> dict[str, Any]:
    """Returns the values that a later run must keep, by their keys."""
    return {"settings": run.settings, "layout": run.layout, "shard_rows": run.shard_rows}


def list_differences(values: Mapping[str, Any], others: Mapping[str, Any]) -> list[str]:
    """Lists the differences between two contents: a text for each name, with both values."""
    first, second = _flatten(_as_json(values)), _flatten(_as_json(others))
    return [
        f"{name}: {first.get(name)} and {second.get(name)}"
        for name in sorted(first.keys() | second.keys())
        if first.get(name) != second.get(name)
    ]


def _as_json(values: Mapping[str, Any]) -> dict[str, Any]:
    """Returns values as `run.json` stores them."""
    plain: dict[str, Any] = json.loads(json.dumps(values, default=str))
    return plain


def _oversize_rule(run: RunJson) -> str | None:
    """Returns the rule by which images above an engine's limit were made to fit, if any."""
    rule: str | None = ((run.settings or {}).get("plan") or {}).get("oversize")
    return run.earlier_oversize if rule == Oversize.REJECT else rule


def _is_change(name: str, before: object, now: object) -> bool:
    if before == now or name in _FREE:
        return False
    # A user's own pipeline may leave the number of rows in a shard to its source.
    return name != "shard_rows" or (before is not None and now is not None)


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, list) and any(isinstance(each, Mapping) for each in value):
            value = {str(number): each for number, each in enumerate(value, start=1)}
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def refuse_foreign_files(dataset: DatasetFolder) -> None:
    """Raises an error if files that no run left have names that a run writes or clears.

    Raises:
        SettingsError: OUTPUT_TAKEN.
    """
    if dataset.has_run():
        return
    taken = [name for name in RESULTS if _is_taken(dataset.resolve(name))]
    if taken and (taken != [BOOKS] or not books.are_all_there_is(dataset)):
        raise SettingsError(
            ErrorCode.OUTPUT_TAKEN,
            f"{dataset.root} has {', '.join(taken)}, but no run.json of a run: no run left that, "
            "and none replaces it. Take another output, or move it away",
        )


def _is_taken(uri: str) -> bool:
    return files.exists(uri) or any(True for _ in files.list_below(uri))
