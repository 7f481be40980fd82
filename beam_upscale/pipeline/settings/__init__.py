"""The settings of a run, pinned at submission, and their record in `run.json`."""
