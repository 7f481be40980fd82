"""Networks on a device: loading weights, choosing device and precision, running the forward pass.
Weights on this machine and samples come in; upscaled samples go out. Nothing here imports Beam or
knows a price, and importing this package imports neither torch nor spandrel.
"""
