"""The store of files on GCS, with the conditions of its requests on generations."""

from collections.abc import Iterator
from typing import IO, Any

from beam_upscale.errors import ImageError
from beam_upscale.storage.beam.object_store import ObjectStore, split
from beam_upscale.storage.beam.requirements import Requirement, unreached


def _problem(_: str) -> ImageError | None:
    """Returns an error if GCS cannot be reached, else None."""
    from google.cloud.storage import Client

    return unreached("GCS", Client.create_anonymous_client()._connection.API_BASE_URL)


class _Client:
    """A client of GCS, with conditions on generations: `ifGenerationMatch`."""

    def __init__(self, options: Any) -> None:
        from apache_beam.io.gcp import gcsio
        from google.api_core import exceptions

        self._client = gcsio.GcsIO(pipeline_options=options).client
        self._conflict = exceptions.PreconditionFailed
        self._absence = exceptions.NotFound

    def _blob(self, uri: str) -> Any:
        bucket, name = split(uri)
        return self._client.bucket(bucket).blob(name)

    def version(self, uri: str) -> str | None:
        blob = self._blob(uri)
        found = blob.bucket.get_blob(blob.name)
        return None if found is None else str(found.generation)

    def read(self, uri: str) -> bytes | None:
        try:
            return bytes(self._blob(uri).download_as_bytes())
        except self._absence:
            return None

    def versions_below(self, prefix: str) -> Iterator[tuple[str, str]]:
        bucket, name = split(prefix)
        for blob in self._client.list_blobs(bucket, prefix=name):
            yield f"gs://{bucket}/{blob.name}", str(blob.generation)

    def write(self, uri: str, file: IO[bytes], expected: str | None) -> bool:
        generation = 0 if expected is None else int(expected)
        try:
            self._blob(uri).upload_from_file(file, rewind=True, if_generation_match=generation)
        except (self._conflict, self._absence):
            return False
        return True

    def delete(self, uri: str, expected: str) -> bool:
        try:
            self._blob(uri).delete(if_generation_match=int(expected))
        except self._conflict:
            return False
        except self._absence:
            return True
        return True


REQUIREMENT = Requirement("gs", "google.cloud.storage", "gcs", _problem)

STORE = ObjectStore(_Client, REQUIREMENT)
