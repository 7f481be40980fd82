from .chain import Backend, ChainPlan, Rules
from .dataset import Record, Telemetry
from .engines import ENGINES, Engine, Network, get_engine
from .errors import BeamUpscaleError, ErrorCode, ImageError, SettingsError
from .formats import InputFormat, Layout
from .listing import SourceImage, list_images, source_image
from .manifest import Row, Status, Totals
from .parameters import Parameters
from .plan import Animated, MetadataRule, OutputFormat, Oversize, Plan, PlanOptions, plan
from .request import FailureLimit, Run, RunResult
from .settings import PinnedSettings, UpscaleSettings, VaeTiling
from .sinks import WriteDataset
from .sources import ReadImages
from .stages import UpscaledImage
from .transforms import Upscale

__all__ = [
    "ENGINES",
    "Animated",
    "Backend",
    "BeamUpscaleError",
    "ChainPlan",
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
    "get_engine",
    "list_images",
    "plan",
    "source_image",
]
