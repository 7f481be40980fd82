"""The settings of a run: options by concern, pinned at submission, and written to `run.json`."""
