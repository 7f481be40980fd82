"""Daft on its native runner, which uses all cores.

Daft lists, reads and decodes by its own functions ("Working with images", docs.daft.ai), and calls
Python once for a batch of images (`daft.func.batch`, "Stateless UDFs"). Whether a batch runs in
this process or in others is left to Daft, which decides by what it measures (`use_process`).
"""

import daft
from daft import DataType, col
from daft.functions import decode_image, download

from benchmarks.pipeline.peers import steps


def main() -> None:
    job = steps.job(__doc__)
    row = DataType.struct({"png": DataType.binary(), "sha256": DataType.string()})

    @daft.func.batch(return_dtype=row)
    def upscaled(images: daft.Series) -> list[dict[str, object]]:
        return [steps.upscaled(pixels, job.encode) for pixels in images.to_pylist()]

    images = daft.from_glob_path(str(job.input / "*"))
    images = images.with_column("image", decode_image(download(col("path"))))
    images = images.with_column("row", upscaled(col("image")))
    images = images.select(col("path"), col("row").get("png"), col("row").get("sha256"))
    images.write_parquet(str(job.output))


if __name__ == "__main__":
    main()
