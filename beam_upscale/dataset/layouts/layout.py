"""The layouts in which results are stored, by name."""

from enum import StrEnum


class Layout(StrEnum):
    """The way images are stored: in a file each, in Parquet, or in tars for WebDataset."""

    FILES = "files"
    PARQUET = "parquet"
    WEBDATASET = "webdataset"

    @property
    def is_packed(self) -> bool:
        """True if a shard's images are in one file, `data_path`, instead of one file each."""
        return self is not Layout.FILES

    def data_path(self, shard: int) -> str:
        """Returns the path of a shard's packed images, relative to the dataset's root."""
        extension = {Layout.PARQUET: ".parquet", Layout.WEBDATASET: ".tar"}[self]
        return f"data/{shard_name(shard)}{extension}"


def shard_name(shard: int) -> str:
    """Returns the name of a shard's files without extension; shards are counted from 0."""
    return f"{shard:06d}"
