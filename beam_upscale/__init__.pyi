from .dataset.layouts.layout import Layout
from .dataset.manifest.row import Row, Status
from .dataset.manifest.totals import Totals
from .dataset.records import Record, Telemetry
from .errors import BeamUpscaleError, ErrorCode, ImageError, SettingsError
from .inference.local_options import VaeTiling, weights_by_engine
from .inference.networks.device import Device, Precision
from .pipeline.local_runner import new_pipeline, runs_here
from .pipeline.one_image.states import UpscaledImage
from .pipeline.read import ReadImages
from .pipeline.request import FailureLimit, Run, RunResult, default_workers
from .pipeline.settings.pinned import PinnedSettings
from .pipeline.settings.upscale_settings import UpscaleSettings
from .pipeline.upscale import Upscale
from .pipeline.write import WriteDataset
from .planning.chain import Backend, ChainPlan, Rules
from .planning.engines import ENGINES, Engine, Network, get_engine
from .planning.parameters import Parameters
from .planning.plan import Plan, plan
from .planning.plan_options import Animated, MetadataRule, OutputFormat, Oversize, PlanOptions
from .sources.discovery import list_images
from .sources.formats.input_format import InputFormat
from .sources.inputs.source_image import SourceImage, source_image

__all__ = [
    "ENGINES",
    "Animated",
    "Backend",
    "BeamUpscaleError",
    "ChainPlan",
    "Device",
    "Engine",
    "ErrorCode",
    "FailureLimit",
    "ImageError",
    "InputFormat",
    "Layout",
    "MetadataRule",
    "Network",
    "OutputFormat",
    "Oversize",
    "Parameters",
    "PinnedSettings",
    "Plan",
    "PlanOptions",
    "Precision",
    "ReadImages",
    "Record",
    "Row",
    "Rules",
    "Run",
    "RunResult",
    "SettingsError",
    "SourceImage",
    "Status",
    "Telemetry",
    "Totals",
    "Upscale",
    "UpscaleSettings",
    "UpscaledImage",
    "VaeTiling",
    "WriteDataset",
    "default_workers",
    "get_engine",
    "list_images",
    "new_pipeline",
    "plan",
    "runs_here",
    "source_image",
    "weights_by_engine",
]
