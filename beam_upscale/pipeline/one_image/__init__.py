"""The steps of one image, from its bytes to its row: prepare, RunInference, finish."""
