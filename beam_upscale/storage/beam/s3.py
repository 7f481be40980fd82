"""The store of files on S3, with the conditions of its requests on ETags."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import IO, Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions, S3Options
from apache_beam.utils import retry

from beam_upscale.errors import ErrorCode, ImageError
from beam_upscale.storage.beam.object_store import ObjectStore, split
from beam_upscale.storage.beam.requirements import Requirement, unreached

# The most bytes of one request, held in memory; larger files go in parts of this size.
_PART_BYTES = 64 << 20


def _problem(_: str) -> ImageError | None:
    """Returns an error if there are no credentials or S3 cannot be reached, else None."""
    import boto3  # type: ignore[import-untyped]
    from apache_beam.io.aws.clients.s3.boto3_client import Client

    found = FileSystems._pipeline_options
    options = found if isinstance(found, PipelineOptions) else PipelineOptions([])
    has_own = options.view_as(S3Options).s3_access_key_id is not None
    # Beam signs each request: it sends no anonymous ones.
    if not has_own and boto3.session.Session().get_credentials() is None:
        return ImageError(
            ErrorCode.PERMISSION_DENIED,
            "no credentials for S3 were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a "
            "profile, or a role of the machine",
        )
    return unreached("S3", Client(options).client.meta.endpoint_url)


class _Client:
    """A client of S3, with conditions on ETags: `If-None-Match` and `If-Match` of its requests."""

    def __init__(self, options: Any) -> None:
        from apache_beam.io.aws.clients.s3 import boto3_client

        self._client = boto3_client.Client(options=options).client

    def version(self, uri: str) -> str | None:
        bucket, key = split(uri)
        with _false_where(_is_refusal) as absent:
            head = _patiently(self._client.head_object)(Bucket=bucket, Key=key)
        return None if absent.met else str(head["ETag"])

    def read(self, uri: str) -> bytes | None:
        bucket, key = split(uri)
        with _false_where(_is_absence) as absent:
            data: bytes = _patiently(self._read)(bucket, key)
        return None if absent.met else data

    def _read(self, bucket: str, key: str) -> bytes:
        data: bytes = self._client.get_object(Bucket=bucket, Key=key)["Body"].read()
        return data

    def versions_below(self, prefix: str) -> Iterator[tuple[str, str]]:
        bucket, key = split(prefix)
        pages = self._client.get_paginator("list_objects_v2")
        for page in pages.paginate(Bucket=bucket, Prefix=key):
            for found in page.get("Contents", ()):
                yield f"s3://{bucket}/{found['Key']}", str(found["ETag"])

    def write(self, uri: str, file: IO[bytes], expected: str | None) -> bool:
        bucket, key = split(uri)
        condition = {"IfNoneMatch": "*"} if expected is None else {"IfMatch": expected}
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        refusal = _is_conflict if expected is None else _is_refusal
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
        bucket, key = split(uri)
        with _false_where(_is_conflict) as refused, _false_where(_is_absence):
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


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None) or {}
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None if status is None else int(status)


def _patiently(call: Callable[..., Any]) -> Callable[..., Any]:
    """Makes a read-only call retry for minutes, as Beam's own do; boto3 retries for seconds."""
    patient: Callable[..., Any] = retry.with_exponential_backoff(retry_filter=_is_busy)(call)
    return patient


def _is_busy(error: Exception) -> bool:
    return _status(error) in (429, 500, 502, 503, 504)


def _is_conflict(error: Exception) -> bool:
    # 409: another conditional write of the same object is under way.
    return _status(error) in (409, 412)


def _is_absence(error: Exception) -> bool:
    return _status(error) == 404


def _is_refusal(error: Exception) -> bool:
    return _is_conflict(error) or _is_absence(error)


REQUIREMENT = Requirement("s3", "boto3", "s3", _problem)

STORE = ObjectStore(_Client, REQUIREMENT)
