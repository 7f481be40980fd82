"""The layout files: each image in a file of its own, in the folder structure of the inputs."""

from beam_upscale.dataset.layouts.definition import LayoutDefinition

# `load_dataset` skips folders such as __MACOSX unless a pattern names them.
_CARD_CONFIG = """\
- config_name: default
  drop_labels: true
  data_files:
  - split: train
    path:
    - "images/**"
    - "images/**/__*/**"
"""

DEFINITION = LayoutDefinition(_CARD_CONFIG)
