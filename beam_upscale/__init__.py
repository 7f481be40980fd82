"""Upscales image datasets of any size on Apache Beam.

Example:
    with beam.Pipeline() as pipeline:
        (
            pipeline
            | bu.ReadImages("photos/**")
            | bu.Upscale("esrgan-v1-x2plus", oversize="tile")
            | bu.WriteDataset("upscaled", layout="parquet")
        )

Its public names are listed in `__init__.pyi` and imported on first use: a process that only decodes
images, or only speaks to a service, is not to load Beam or torch.
"""

import sys
import types

import lazy_loader

# The function, for good: the module of the same name would take its place when it is imported.
from beam_upscale.planning.plan import plan as plan

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

# lazy_loader makes a package like this one, in which a function is called as its module, a module
# of a kind that cannot be pickled: no function of a user's that names it could be sent to a worker.
sys.modules[__name__].__class__ = types.ModuleType
