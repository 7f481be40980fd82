"""Ray Data on one node with one task for each worker.

Images are read by `read_images` and taken in batches by `map_batches` ("Working with images" and
"Advanced: Performance tips and tuning", docs.ray.io), which Ray fuses with the read.
"""

import tempfile
from typing import Any

import ray

from benchmarks.pipeline.peers import steps


def main() -> None:
    job = steps.job(__doc__)
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        ray.init(
            num_cpus=job.workers,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        upscale(job)
        ray.shutdown()


def upscale(job: steps.Job) -> None:
    """Reads, upscales and writes all images."""

    def upscaled(batch: dict[str, Any]) -> dict[str, list[Any]]:
        rows = [steps.upscaled(pixels, job.encode) for pixels in batch["image"]]
        columns = {name: [row[name] for row in rows] for name in ("png", "sha256")}
        return {"path": list(batch["path"]), **columns}

    images = ray.data.read_images(str(job.input), mode="RGB", include_paths=True)
    images.map_batches(upscaled).write_parquet(str(job.output))


if __name__ == "__main__":
    main()
