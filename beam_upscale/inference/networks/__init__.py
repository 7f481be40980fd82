"""Networks on a device: loading weights, choosing device and precision, running the forward pass.

Importing this package imports neither torch nor spandrel.
"""
