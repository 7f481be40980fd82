"""The settings of a run: options by concern, pinned at submission, and written to `run.json`.
Options come in; `PinnedSettings` go out, without an `auto` left, and their JSON. Nothing here reads
an input, and workers choose nothing.
"""
