"""Conditional writes and deletions of files, by each store's own means.

Beam's `FileSystems` can only create and replace. Two workers that do not know of each other need
more: to create a file only if there is none, and to replace or delete a file only if it is still
the version that they saw. For the first, a local disk has hard links, and HDFS has a rename that
does not replace. S3, GCS and Azure have conditions for both.
"""

import contextlib
import functools
import json
import os
import random
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import IO, Any, Protocol

from apache_beam.io.filesystems import FileSystems
from apache_beam.utils import retry

Guard = Callable[[], AbstractContextManager[None]]
"""A function that returns a context for writing or deleting a file, or raises to forbid it."""

# The most bytes of one request to S3, held in memory; larger files go in parts of this size.
_PART_BYTES = 64 << 20

# The connection pools of boto3 and requests keep as many connections.
_DELETED_AT_ONCE = 10

# The most attempts to replace a file that other writers keep changing.
_MOST_TRIES = 10
_LONGEST_PAUSE = 0.2


class ConditionalStore(Protocol):
    """A store whose writes and deletions can depend on a file's current version."""

    def version(self, uri: str) -> str | None:
        """Returns a text that changes with a file's content; None if there is no file."""
        ...

    def read(self, uri: str) -> bytes | None:
        """Returns a file's content; None if there is no file."""
        ...

    def versions_below(self, prefix: str) -> Iterator[tuple[str, str]]:
        """Yields the URIs that begin with `prefix`, each with its version."""
        ...

    def write(self, uri: str, file: IO[bytes], expected: str | None) -> bool:
        """Writes a file if its version is the expected one; returns True if it was written.

        Args:
            uri: of the file.
            file: the content; it is read from its beginning.
            expected: the version that `version` returned; None if there must be no file.
        """
        ...

    def delete(self, uri: str, expected: str) -> bool:
        """Deletes a file if its version is the expected one; returns True if the file is gone."""
        ...


def store_of(uri: str) -> ConditionalStore | None:
    """Returns the store of a URI; None if that store has no conditional writes."""
    scheme = uri.partition("://")[0] if "://" in uri else ""
    kind = _STORES.get(scheme)
    if kind is None:
        return None
    filesystem = FileSystems.get_filesystem(uri)
    # In a process that was given no options, the file system has an empty dict, or None.
    kept = (getattr(filesystem, name, None) for name in ("_options", "_pipeline_options"))
    return _store(kind, _comparable(next((each for each in kept if each is not None), {})))


class _Options:
    """Beam's options, compared by their values, so that stores with equal options are shared."""

    def __init__(self, options: Any) -> None:
        self.options = options
        self._text = json.dumps(_values(options), sort_keys=True, default=str)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Options) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self._text)


_latest: tuple[Any, _Options] | None = None


def _comparable(options: Any) -> _Options:
    # Reading the values takes Beam milliseconds; mostly, the options are those of the last call.
    global _latest
    latest = _latest
    if latest is None or latest[0] is not options:
        _latest = latest = options, _Options(options)
    return latest[1]


def _values(options: Any) -> Any:
    return options if isinstance(options, dict) else options.get_all_options(drop_default=True)


@functools.lru_cache(maxsize=8)
def _store(kind: Callable[[Any], ConditionalStore], options: _Options) -> ConditionalStore:
    # A client takes a tenth of a second to make; those of S3, GCS and Azure are thread-safe.
    return kind(options.options)


def forget_clients() -> None:
    """Drops the cached clients, since the options or the environment may have changed."""
    _store.cache_clear()


os.register_at_fork(after_in_child=forget_clients)


class _S3:
    """S3, by ETags: `If-None-Match` and `If-Match` of PutObject and similar requests."""

    def __init__(self, options: Any) -> None:
        from apache_beam.io.aws.clients.s3 import boto3_client

        self._client = boto3_client.Client(options=options).client

    def version(self, uri: str) -> str | None:
        bucket, key = _split(uri)
        with _false_where(_s3_refusal) as absent:
            head = _patiently(self._client.head_object)(Bucket=bucket, Key=key)
        return None if absent.met else str(head["ETag"])

    def read(self, uri: str) -> bytes | None:
        bucket, key = _split(uri)
        with _false_where(_s3_absence) as absent:
            data: bytes = _patiently(self._read)(bucket, key)
        return None if absent.met else data

    def _read(self, bucket: str, key: str) -> bytes:
        data: bytes = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return data

    def versions_below(self, prefix: str) -> Iterator[tuple[str, str]]:
        bucket, key = _split(prefix)
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=key):
            for found in page.get("Contents", ()):
                yield f"s3://{bucket}/{found['Key']}", str(found["ETag"])

    def write(self, uri: str, file: IO[bytes], expected: str | None) -> bool:
        bucket, key = _split(uri)
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        refusal = _s3_conflict if expected is None else _s3_refusal
        with _false_where(refusal) as refused:
            if size <= _PART_BYTES:
                # Read the file as a whole, since boto3 closes a file that it is given.
                self._client.put_object(Bucket=bucket, Key=key, Body=file.read(), **condition)
            else:
                self._put_in_parts(bucket, key, file, condition)
        return not refused.met

    def _put_in_parts(
        self, bucket: str, key: str, file: IO[bytes], condition: dict[str, str]
    ) -> None:
        upload = self._client.create_multipart_upload(Bucket=bucket, Key=key)["UploadId"]
        name = {"Bucket": bucket, "Key": key, "UploadId": upload}
        try:
            parts = []
            for number, data in enumerate(iter(lambda: file.read(_PART_BYTES), b""), start=1):
                answer = self._client.upload_part(**name, PartNumber=number, Body=data)
                parts.append({"PartNumber": number, "ETag": answer["ETag"]})
            self._client.complete_multipart_upload(
                **name, MultipartUpload={"Parts": parts}, **condition
            )
        except BaseException:
            with contextlib.suppress(Exception):
                self._client.abort_multipart_upload(**name)
            raise

    def delete(self, uri: str, expected: str) -> bool:
        bucket, key = _split(uri)
        with _false_where(_s3_conflict) as refused, _false_where(_s3_absence):
            self._client.delete_object(Bucket=bucket, Key=key, IfMatch=expected)
        return not refused.met


class _Met:
    """A flag: `met` is True once an expected refusal was raised."""

    met = False


@contextlib.contextmanager
def _false_where(is_expected: Callable[[Exception], bool]) -> Iterator[_Met]:
    found = _Met()
    try:
        yield found
    except Exception as error:
        if not is_expected(error):
            raise
        found.met = True


def _s3_status(error: Exception) -> int | None:
    response = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None if status is None else int(status)


def _patiently(call: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a read-only call retry for minutes, as Beam's own do; boto3 retries for seconds."""
    patient: Callable[..., Any] = retry.with_exponential_backoff(retry_filter=_is_s3_busy)(call)
    return patient


def _is_s3_busy(error: Exception) -> bool:
    return _s3_status(error) in (429, 500, 502, 503, 504)


def _s3_conflict(error: Exception) -> bool:
    # 409: another conditional write of the same object is under way.
    return _s3_status(error) in (409, 412)


def _s3_absence(error: Exception) -> bool:
    return _s3_status(error) == 404


def _s3_refusal(error: Exception) -> bool:
    return _s3_conflict(error) or _s3_absence(error)


class _Gcs:
    """GCS, by generations: `ifGenerationMatch`."""

    def __init__(self, options: Any) -> None:
        from apache_beam.io.gcp import gcsio
        from google.api_core import exceptions

        self._client = gcsio.GcsIO(pipeline_options=options).client
        self._conflict = exceptions.PreconditionFailed
        self._absence = exceptions.NotFound

    def _blob(self, uri: str) -> Any:
        bucket, name = _split(uri)
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
        bucket, name = _split(prefix)
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


class _Azure:
    """Azure's blobs, by ETags."""

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


def _split(uri: str) -> tuple[str, str]:
    """Splits an object's URI into its bucket and its name."""
    bucket, _, name = uri.partition("://")[2].partition("/")
    return bucket, name


_STORES: dict[str, Callable[[Any], ConditionalStore]] = {"s3": _S3, "gs": _Gcs, "azfs": _Azure}


def put(store: ConditionalStore, uri: str, file: IO[bytes], guard: Guard) -> None:
    """Replaces a file, unless the guard refuses or another run has changed it.

    The order makes this safe: first the version to be replaced is read, then the guard is called,
    then exactly that version is replaced. A run that takes the output over after the guard was
    called either has changed the file, or will find this one and replace it.

    Raises:
        OSError: other writers keep changing the file.
        Exception: any exception of the guard or of the store.
    """
    expected: str | None = None
    for attempt in range(_MOST_TRIES):
        if attempt > 1:
            # Another writer is changing the same file.
            time.sleep(random.uniform(0, _LONGEST_PAUSE))
        with guard():
            is_written = store.write(uri, file, expected)
        if is_written:
            return
        expected = store.version(uri)
    raise OSError(f"{uri} is changed by others all the time")


def delete_seen(store: ConditionalStore, seen: Iterable[tuple[str, str]], guard: Guard) -> None:
    """Deletes files whose versions are unchanged; files that have changed since stay.

    Args:
        store: of the files.
        seen: URIs with the versions that were seen; all are read before the guard is called.
        guard: called before each deletion.
    """
    pairs = list(seen)

    def delete(pair: tuple[str, str]) -> None:
        with guard():
            store.delete(*pair)

    with ThreadPoolExecutor(_DELETED_AT_ONCE) as threads:
        for _ in threads.map(delete, pairs):
            pass
