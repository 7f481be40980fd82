"""What users write, for mypy: options are checked by name and by value.

mypy warns of an ignored error that is none, so each line that ignores one is a test: the option on
it must be an error.
"""

from typing import Any

import beam_upscale as bu
from beam_upscale.pipeline.settings.upscale_options import UpscaleOptions
from beam_upscale.run import run
from beam_upscale.yaml import Upscale as UpscaleOfRows


def what_the_documents_show(photos: Any) -> None:
    """Options as README and docs have them."""
    bu.Upscale("esrgan-v1-x2plus", oversize="tile")
    bu.Upscale(["esrgan-v1-x2plus", "stable-diffusion-x4-latent-upscaler"], prompt="a cat")
    bu.Upscale(oversize=bu.Oversize.TILE, fan_out_above=400, scratch="gs://bucket/upscaled")
    bu.Upscale("esrgan-v1-x2plus", device="cuda", handler_options={"large_model": True})
    bu.Upscale(backend="grpc", endpoint="localhost:50051", books="gs://bucket/upscaled")
    bu.Upscale(bu.UpscaleSettings.of("esrgan-v1-x2plus", device="cpu").pin())
    UpscaleOfRows("esrgan-v1-x2plus", oversize="tile")
    settings = bu.UpscaleSettings.of("esrgan-v1-x2plus", device="cpu", weights={"a": "b"}, seed="7")
    run(bu.Run("photos", "upscaled", settings))
    bu.plan(bu.get_engine("esrgan-v1-x2plus"), 8, 6, bu.PlanOptions(oversize=bu.Oversize.TILE))


def options_of_a_program_of_ones_own(options: UpscaleOptions) -> bu.Upscale:
    """Options that a user's own function takes and hands on."""
    return bu.Upscale("esrgan-v1-x2plus", **options)


def what_is_an_error() -> None:
    """Names that no option has, and values that are none of an option's."""
    bu.Upscale("esrgan-v1-x2plus", oversise="tile")  # type: ignore[call-arg]
    bu.Upscale("esrgan-v1-x2plus", oversize="cut")  # type: ignore[arg-type]
    bu.Upscale("esrgan-v1-x2plus", width="640")  # type: ignore[arg-type]
    bu.UpscaleSettings.of("esrgan-v1-x2plus", devise="cpu")  # type: ignore[call-arg]
    bu.UpscaleSettings.of("esrgan-v1-x2plus", device="tpu")  # type: ignore[arg-type]
    bu.Upscale(handler_options={"large_modle": True})  # type: ignore[arg-type]
    UpscaleOfRows("esrgan-v1-x2plus", metadata="drop")  # type: ignore[arg-type]
