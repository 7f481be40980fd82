"""Stores that lack something are refused at once, once and for all of their files."""

import importlib.util
import socket
from collections.abc import Callable, Iterator

import memory_hdfs
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from ports import closed_port

from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.storage import files
from beam_upscale.storage.beam import azure, gcs, hdfs, requirements, s3
from beam_upscale.storage.stores import store_of


@pytest.fixture(autouse=True)
def afresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is known of any store, before and after."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(requirements.time, "sleep", lambda _: None)
    files.configure([])
    yield
    files.configure([])


@pytest.fixture
def nowhere() -> Iterator[str]:
    """The URL of a port at which nothing listens."""
    with closed_port() as port:
        yield f"http://127.0.0.1:{port}"


def assert_refused(uri: str, code: ErrorCode, words: str) -> None:
    """Whatever is asked of a file, the answer is the same."""
    acts: tuple[Callable[[], object], ...] = (
        lambda: files.read(uri),
        lambda: files.read_at_most(uri, 10),
        lambda: files.read(uri, limit=10),
        lambda: files.size(uri),
        lambda: files.exists(uri),
        lambda: files.sha256(uri),
        lambda: files.write(uri, b"x"),
        lambda: files.create(uri, b"x"),
    )
    for act in acts:
        with pytest.raises(ImageError, match=words) as caught:
            act()
        assert caught.value.code is code
    assert files.version(uri) == ()
    with pytest.raises(SettingsError, match=words) as listed:
        list(files.list_files(uri))
    assert listed.value.code is code
    with pytest.raises(SettingsError, match=words.partition(": ")[2] or words) as written:
        store_of(uri).check_folder(uri)
    is_missing = code is ErrorCode.MISSING_PACKAGE
    assert written.value.code is (code if is_missing else ErrorCode.OUTPUT_UNAVAILABLE)


@pytest.mark.parametrize(
    ("uri", "extra"),
    [
        *(("s3://b/a.png", "s3"), ("gs://b/a.png", "gcs")),
        *(("azfs://a/c/a.png", "azure"), ("hdfs://x/a.png", "hdfs")),
    ],
)
def test_a_store_whose_package_is_missing_names_it(
    uri: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = importlib.util.find_spec
    packages = {each.REQUIREMENT.module for each in (azure, gcs, hdfs, s3)}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in packages else found(name)
    )

    words = rf"{uri}/? could not be read: .*pip install 'beam-upscale\[{extra}\]'"
    assert_refused(uri, ErrorCode.MISSING_PACKAGE, words)


def test_hdfs_without_options_says_which() -> None:
    words = r"hdfs://x/a.png/? could not be read: .*--hdfs_host, --hdfs_port and --hdfs_user"

    assert_refused("hdfs://x/a.png", ErrorCode.READ_ERROR, words)


def test_options_that_a_pipeline_sets_count_at_once() -> None:
    with pytest.raises(ImageError):
        requirements.check(hdfs.REQUIREMENT, "hdfs://x/a.png")

    FileSystems.set_options(PipelineOptions(list(memory_hdfs.OPTIONS)))

    requirements.check(hdfs.REQUIREMENT, "hdfs://x/a.png")


def test_s3_without_credentials_is_refused_and_asked_once(
    monkeypatch: pytest.MonkeyPatch, nowhere: str
) -> None:
    session = pytest.importorskip("boto3").session.Session
    asked: list[None] = []
    monkeypatch.setattr(session, "get_credentials", lambda _: asked.append(None))

    assert_refused("s3://b/a.png", ErrorCode.PERMISSION_DENIED, "no credentials for S3 were found")
    with pytest.raises(ImageError, match=r"s3://other/b.png could not be read: no credentials"):
        files.read("s3://other/b.png")
    assert len(asked) == 1

    # Those among Beam's options are as good.
    files.configure(
        ["--s3_access_key_id=a", "--s3_secret_access_key=b", f"--s3_endpoint_url={nowhere}"]
    )
    with pytest.raises(ImageError, match="S3 cannot be reached: there is no connection to 127"):
        files.read("s3://b/a.png")
    assert len(asked) == 1


def test_a_store_without_a_way_to_it_is_looked_for_once(
    monkeypatch: pytest.MonkeyPatch, nowhere: str
) -> None:
    pytest.importorskip("google.cloud.storage")
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", nowhere)
    tried: list[object] = []
    connect = socket.create_connection

    def noted(address: tuple[str, int], timeout: float) -> socket.socket:
        tried.append(address)
        return connect(address, timeout)

    monkeypatch.setattr(socket, "create_connection", noted)

    words = "GCS cannot be reached: there is no connection to 127.0.0.1"
    assert_refused("gs://b/a.png", ErrorCode.READ_ERROR, words)
    assert len(tried) == 2

    monkeypatch.setattr(requirements, "_SECONDS_LACKING", 0)
    files.configure([])
    for _ in range(2):
        with pytest.raises(ImageError, match=words):
            files.read("gs://b/a.png")
    assert len(tried) == 6
