"""The dataset card: lets `load_dataset(OUTPUT)` open the images, and describes them to people."""

import re
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from beam_upscale.dataset.layouts.layout import Layout
from beam_upscale.dataset.manifest.row import Status
from beam_upscale.errors import literal, shortened

_LONGEST_NAME = 255

_MANIFEST_CONFIG = """\
- config_name: manifest
  data_files:
  - split: train
    path: "manifest/*.parquet"
"""


def dataset_card(
    layout: Layout,
    by_status: Mapping[str, int],
    settings: Mapping[str, Any] | None,
    fields: pa.Schema | None = None,
) -> str:
    """Returns the text of the dataset's README.md, in the form of the Hugging Face Hub.

    Args:
        layout: the layout of the images.
        by_status: number of rows of the manifest by status.
        settings: those in `run.json`; None if they are not known.
        fields: fields of the images' configuration; None if the data itself states them. Binary
            fields are images. Types are those of `plain_type`.
    """
    stages = (settings or {}).get("stages") or [{}]
    made = ", then by\n".join(_made_by(stage) for stage in stages)
    has_images = bool(by_status.get(Status.UPSCALED))
    config = _config(layout, has_images)
    info = _dataset_info(fields) if has_images and fields is not None else ""
    counts = "\n".join(f"| {status} | {count} |" for status, count in sorted(by_status.items()))
    return f"""\
---
tags:
- image
- super-resolution
- beam-upscale
configs:
{config}{info}---

# Upscaled images

Made by beam-upscale: by
{made}.

| status | inputs |
| --- | --- |
{counts}

`manifest/` has one row for each input: what became of it, its price, its sizes and its SHA-256.
`load_dataset("parquet", data_files="manifest/*.parquet")` opens it, as DuckDB and pandas do.
`run.json` has the settings and versions that made it. `beam-upscale verify` checks both.
"""


def _made_by(stage: Mapping[str, Any]) -> str:
    model, engine = stage.get("model", {}), _code(stage.get("engine", "unknown"))
    if model and "weights_sha256" not in model:
        return f"the engine {engine} of a service, called over gRPC"
    if model and model["weights_sha256"] is None:
        return f"the engine {engine} with the baseline {_code(model['name'])}"
    weights, sha256 = (_code(model.get(name, "unknown")) for name in ("name", "weights_sha256"))
    return f"the engine {engine} with the weights {weights} (SHA-256 {sha256})"


def _code(text: str) -> str:
    """Formats any text as Markdown inline code, so that no character of it acts as markup."""
    shown = literal(shortened(text, _LONGEST_NAME))
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if shown[:1] in ("`", " ") or shown[-1:] in ("`", " ") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def _config(layout: Layout, has_images: bool) -> str:
    """Returns the card's configurations; `load_dataset` opens all by the first one's reader."""
    if not has_images:
        # A pattern that matches nothing is an error.
        return _MANIFEST_CONFIG
    definition = layout.definition
    return definition.card_config + (_MANIFEST_CONFIG if definition.opens_manifest else "")


def _dataset_info(fields: pa.Schema) -> str:
    """Returns the features of the images' configuration, as YAML.

    Without them, `load_dataset` would infer those of a tar from its first five samples.
    """
    members = [_feature(field.name, field.type) for field in fields]
    members += [_feature(name, pa.string()) for name in ("__key__", "__url__")]
    features = "".join(f"  - {{{member}}}\n" for member in members)
    return f"dataset_info:\n- config_name: default\n  features:\n{features}"


def _feature(name: str, kind: pa.DataType) -> str:
    return f"name: {_yaml_text(name)}, {_feature_type(kind)}"


def _feature_type(kind: pa.DataType) -> str:
    """Returns a type in Hugging Face's words: Arrow's names, but `float64` for floating point."""
    if pa.types.is_struct(kind):
        members = ", ".join(f"{{{_feature(field.name, field.type)}}}" for field in kind)
        return f"struct: [{members}]"
    if pa.types.is_list(kind):
        return f"list: {{{_feature_type(kind.value_type)}}}"
    if pa.types.is_binary(kind):
        return "dtype: image"
    return f"dtype: {_yaml_text('float64' if pa.types.is_floating(kind) else str(kind))}"


def _yaml_text(text: str) -> str:
    """Quotes any text for YAML.

    JSON's quoting does not do: it leaves some characters that YAML must escape as they are, and
    writes others as two surrogates.
    """
    escaped = (
        each
        if each.isascii() and each.isprintable() and each not in '"\\'
        else f"\\U{ord(each):08x}"
        for each in text
    )
    return f'"{"".join(escaped)}"'
