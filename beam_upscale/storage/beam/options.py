"""Beam's options of this process, with which it reaches Beam's file systems."""

from collections.abc import Sequence

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

from beam_upscale.storage.beam import object_store, requirements


def configure(beam_options: Sequence[str]) -> None:
    """Sets the options, and forgets the results of checks under earlier ones."""
    FileSystems.set_options(PipelineOptions(list(beam_options)))
    object_store.forget_clients()
    requirements.forget()
