"""The dataset card: lets `load_dataset(OUTPUT)` open the images, and a person see what it is."""

from collections.abc import Mapping
from typing import Any

from beam_upscale.dataset import IMAGES, Layout
from beam_upscale.manifest import Status

# Folders such as __MACOSX are passed over unless a pattern names them.
_FILES_CONFIG = f"""\
- config_name: default
  drop_labels: true
  data_files:
  - split: train
    path:
    - "{IMAGES}/**"
    - "{IMAGES}/**/__*/**"
"""

_PARQUET_CONFIG = """\
- config_name: default
  data_files:
  - split: train
    path: "data/*.parquet"
"""

_MANIFEST_CONFIG = """\
- config_name: manifest
  data_files:
  - split: train
    path: "manifest/*.parquet"
"""


def dataset_card(layout: Layout, by_status: Mapping[str, int], run: Mapping[str, Any]) -> str:
    """The text of the dataset's README.md, in the form of the Hugging Face Hub.

    Args:
        layout: where the images are.
        by_status: rows of the manifest by status.
        run: what `run.json` says; `settings` is looked at.
    """
    stages = (run.get("settings") or {}).get("stages") or [{}]
    made = ", then by\n".join(_made_by(stage) for stage in stages)
    config = _config(layout, has_images=bool(by_status.get(Status.UPSCALED)))
    counts = "\n".join(f"| {status} | {count} |" for status, count in sorted(by_status.items()))
    return f"""\
---
tags:
- image
- super-resolution
- beam-upscale
configs:
{config}---

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
    model, engine = stage.get("model", {}), stage.get("engine", "unknown")
    if model and "weights_sha256" not in model:
        return f"the engine `{engine}` of a service, called over gRPC"
    return (
        f"the engine `{engine}` with the weights "
        f"`{model.get('name', 'unknown')}` (SHA-256 `{model.get('weights_sha256', 'unknown')}`)"
    )


def _config(layout: Layout, has_images: bool) -> str:
    """What `load_dataset` opens: all of it by one reader, that of the first configuration."""
    if not has_images:
        # A pattern that matches nothing is an error.
        return _MANIFEST_CONFIG
    return _PARQUET_CONFIG + _MANIFEST_CONFIG if layout is Layout.PARQUET else _FILES_CONFIG
