"""Beam transforms and runs: `ReadImages`, `Upscale`, `WriteDataset`, preview, run.

Everything a run decides is decided before it begins, and recorded.
"""
