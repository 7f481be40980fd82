from .dataset import Layout, Record, Telemetry
from .engines import ENGINES, Engine, get_engine
from .errors import BeamUpscaleError, ErrorCode, ImageError, SettingsError
from .listing import SourceImage, list_images, source_image
from .manifest import Row, Status, Totals
from .plan import Animated, OutputFormat, Oversize, Plan, PlanOptions, plan
from .request import FailureLimit, Run, RunResult
from .settings import PinnedSettings, UpscaleSettings
from .sinks import WriteDataset
from .sources import ReadImages
from .transforms import Upscale, UpscaledImage

__all__ = [
    "ENGINES",
    "Animated",
    "BeamUpscaleError",
    "Engine",
    "ErrorCode",
    "FailureLimit",
    "ImageError",
    "Layout",
    "OutputFormat",
    "Oversize",
    "PinnedSettings",
    "Plan",
    "PlanOptions",
    "ReadImages",
    "Record",
    "Row",
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
    "WriteDataset",
    "get_engine",
    "list_images",
    "plan",
    "source_image",
]
