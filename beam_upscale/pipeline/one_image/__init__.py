"""One image from its bytes to its row: prepare, RunInference, finish."""
