"""The names of an output's files and folders below its root, and of two below `.staging/`."""

CARD = "README.md"
"""The dataset card."""

IMAGES = "images"
"""The folder of images in a layout with a file for each."""

DATA = "data"
"""The folder of shards of images in a layout that packs them."""

INTERMEDIATES = "intermediates"
"""The folder of the results between the engines of a chain, if they are kept."""

MANIFEST = "manifest"
"""The folder of the manifest, with one file for each shard."""

TELEMETRY = "telemetry"
"""The folder of measurements, which vary from run to run."""

RUN_JSON = "run.json"
"""The file that describes the run."""

BOOKS = "books"
"""The folder of the books of paid calls; in `run.json` the key of their format."""

RESULTS = (CARD, IMAGES, DATA, INTERMEDIATES, MANIFEST, TELEMETRY, BOOKS, RUN_JSON)
"""All files and folders that a run leaves directly below its output."""

STAGING = ".staging"
"""The folder of work in progress, which is gone when a run completes."""

HOLDS = "hold"
"""The folder of the holds, below `STAGING`."""

STOP = "stop"
"""The file whose presence tells every worker to begin no further image, below `STAGING`."""
