"""The transforms for Beam YAML, under the name that users' pipelines have."""

from beam_upscale.pipeline.beam_yaml import PROVIDERS, ReadImages, Upscale, WriteDataset

__all__ = ["PROVIDERS", "ReadImages", "Upscale", "WriteDataset"]
