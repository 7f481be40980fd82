"""The default network alone, as a run would set it up here, on the images of a folder.

    python -m benchmarks.pipeline.bare_network FOLDER COUNT [COUNT …]

Decodes all images and runs the network once before the clock starts. Prints, as JSON, the seconds
after each number of images.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from beam_upscale.inference.handlers.loading import weights_path
from beam_upscale.inference.local_engines import EsrganEngine
from beam_upscale.inference.networks.backend import NetworkBackend
from beam_upscale.inference.networks.super_resolution import SuperResolution
from beam_upscale.pipeline.settings.upscale_settings import UpscaleSettings


def network() -> SuperResolution:
    """The default network with the device, precision, library and threads that a run chooses."""
    [stage] = UpscaleSettings().pin().stages
    engine = stage.pinned
    assert isinstance(engine, EsrganEngine)
    path = weights_path(engine)
    if engine.network_backend is NetworkBackend.OPENVINO:
        from beam_upscale.inference.networks.openvino.network import OpenVinoNetwork

        return OpenVinoNetwork.load(path, engine.precision, engine.threads)
    from beam_upscale.inference.networks.torch.esrgan import TorchNetwork

    return TorchNetwork.load(path, engine.device, engine.precision, engine.threads)


def main() -> None:
    folder, counts = Path(sys.argv[1]), {int(word) for word in sys.argv[2:]}
    paths = sorted(folder.iterdir())[: max(counts)]
    pictures = [np.asarray(Image.open(path).convert("RGB"))[None] for path in paths]
    bare, seconds = network(), {}
    bare.upscale(pictures[0])
    started = time.perf_counter()
    for number, pixels in enumerate(pictures, start=1):
        bare.upscale(pixels)
        if number in counts:
            seconds[number] = time.perf_counter() - started
    print(json.dumps(seconds))


if __name__ == "__main__":
    main()
