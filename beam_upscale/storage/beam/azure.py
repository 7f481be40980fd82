"""The store of files on Azure's blob storage, with the conditions of its requests on ETags."""

from collections.abc import Iterator
from typing import IO, Any

from beam_upscale.storage.beam.object_store import ObjectStore
from beam_upscale.storage.beam.requirements import Requirement


class _Client:
    """A client of Azure's blob storage, with conditions on ETags."""

    def __init__(self, options: Any) -> None:
        from apache_beam.io.azure import blobstorageio
        from azure.core import MatchConditions, exceptions

        self._client = blobstorageio.BlobStorageIO(pipeline_options=options).client
        self._parse = blobstorageio.parse_azfs_path
        self._unmodified = MatchConditions.IfNotModified
        self._conflict = (exceptions.ResourceExistsError, exceptions.ResourceModifiedError)
        self._absence = exceptions.ResourceNotFoundError

    def _blob(self, uri: str) -> Any:
        container, name = self._parse(uri)
        return self._client.get_blob_client(container, name)

    def version(self, uri: str) -> str | None:
        try:
            return str(self._blob(uri).get_blob_properties().etag)
        except self._absence:
            return None

    def read(self, uri: str) -> bytes | None:
        try:
            return bytes(self._blob(uri).download_blob().readall())
        except self._absence:
            return None

    def versions_below(self, prefix: str) -> Iterator[tuple[str, str]]:
        account, container, name = self._parse(prefix, blob_optional=True, get_account=True)
        for blob in self._client.get_container_client(container).list_blobs(name_starts_with=name):
            yield f"azfs://{account}/{container}/{blob.name}", str(blob.etag)

    def write(self, uri: str, file: IO[bytes], expected: str | None) -> bool:
        file.seek(0)
        condition: dict[str, Any] = {"overwrite": expected is not None}
        if expected is not None:
            condition |= {"etag": expected, "match_condition": self._unmodified}
        try:
            self._blob(uri).upload_blob(file, **condition)
        except (*self._conflict, self._absence):
            return False
        return True

    def delete(self, uri: str, expected: str) -> bool:
        try:
            self._blob(uri).delete_blob(etag=expected, match_condition=self._unmodified)
        except self._conflict:
            return False
        except self._absence:
            return True
        return True


REQUIREMENT = Requirement("azfs", "azure.storage.blob", "azure")

STORE = ObjectStore(_Client, REQUIREMENT)
