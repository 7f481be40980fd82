"""Which addresses may be connected to for a URL."""

from typing import NoReturn

import apache_beam as beam
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.runners.portability.fn_api_runner import FnApiRunner

import beam_upscale as bu
from beam_upscale.errors import ErrorCode, ImageError, SettingsError
from beam_upscale.pipeline.read import ListingRequest
from beam_upscale.sources.inputs.source_image import source_from_json, source_image
from beam_upscale.storage.http import web_access
from beam_upscale.storage.http.web_access import WebAccess


@pytest.fixture(autouse=True)
def options(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this process are as before when a test has ended."""
    monkeypatch.setattr(FileSystems, "_pipeline_options", None)


PUBLIC = ["1.1.1.1", "2606:4700::1", "::ffff:8.8.8.8", "64:ff9b::808:808"]
PRIVATE = [
    *("127.0.0.1", "127.8.9.1", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.1.1", "100.64.0.1"),
    *("224.0.0.1", "240.0.0.1", "::", "::1", "fd12::1", "fec0::1", "ff02::1", "::ffff:127.0.0.1"),
    *("64:ff9b::a00:1", "64:ff9b:1::a00:1", "::10.0.0.1", "2002:a00:1::"),
]
LINK_LOCAL = [
    *("169.254.169.254", "169.254.0.1", "fe80::1", "fe80::1%eth0", "::ffff:169.254.169.254"),
    *("64:ff9b::a9fe:a9fe", "64:ff9b:1::a9fe:a9fe", "::169.254.169.254", "2002:a9fe:a9fe::"),
    *("::ffff:0:169.254.169.254", "fd00:ec2::254", "fd20:ce::254"),
    *("100.100.100.200", "168.63.129.16"),
]


def test_link_local_addresses_are_allowed_by_hand_only() -> None:
    for address in LINK_LOCAL:
        assert "--allow-link-local" in (WebAccess().refusal(address) or ""), address
        assert WebAccess(allows_link_local=True).refusal(address) is None, address
    for address in [*PUBLIC, *PRIVATE]:
        assert WebAccess().refusal(address) is None, address


def test_private_networks_may_be_denied() -> None:
    for address in PRIVATE:
        found = WebAccess(denies_private=True).refusal(address)
        assert "--deny-private-networks" in (found or ""), address
    for address in PUBLIC:
        assert WebAccess(denies_private=True).refusal(address) is None, address


def test_a_host_is_refused_by_what_it_is_called_where_that_tells() -> None:
    denying = WebAccess(denies_private=True)

    for host in ("localhost", "a.localhost", "localhost.", "127.0.0.1", "[::1]"):
        assert denying.refusal_of_host(host), host
    for host in ("metadata.google.internal", "169.254.169.254", "[fe80::1]"):
        assert WebAccess().refusal_of_host(host), host
    assert denying.refusal_of_host("example.org") is None


def test_what_is_asked_for_holds_within_a_block_and_adds_up() -> None:
    FileSystems.set_options(PipelineOptions(["--deny_private_networks"]))

    with web_access.within(WebAccess(allows_link_local=True)), web_access.within(WebAccess()):
        assert web_access.access() == WebAccess(denies_private=True, allows_link_local=True)

    assert web_access.access() == WebAccess(denies_private=True)


def test_every_input_has_what_was_asked_for() -> None:
    with web_access.within(WebAccess(denies_private=True)):
        image = source_image("http://127.0.0.1:1/a.png")

    # In a worker that knows nothing of the options.
    sent = source_from_json(image.to_json())

    assert sent.web_access == WebAccess(denies_private=True)
    for read in (
        lambda: sent.read(10),
        sent.read_start,
        sent.sha256,
        lambda: sent.on_disk().__enter__(),
    ):
        with pytest.raises(ImageError, match="--deny-private"):
            read()
    assert "web_access" not in source_image("https://example.org/a.png").to_json()


def test_reading_asks_as_its_options_and_the_pipeline_s_say() -> None:
    seen: list[WebAccess] = []
    options = PipelineOptions(["--deny_private_networks"])

    def listed(request: ListingRequest) -> NoReturn:
        seen.append(request.web_access)
        raise SettingsError(ErrorCode.NO_INPUT, "seen")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ListingRequest, "listing", listed)
        with (
            pytest.raises(Exception, match="seen"),
            beam.Pipeline(runner=FnApiRunner(), options=options) as pipeline,
        ):
            _ = pipeline | bu.ReadImages("photos", allow_link_local=True)

    assert seen[0] == WebAccess(denies_private=True, allows_link_local=True)


def test_options_of_the_command_line_are_beams() -> None:
    for denies in (False, True):
        for allows in (False, True):
            FileSystems.set_options(PipelineOptions(web_access.beam_arguments(denies, allows)))
            assert web_access.access() == WebAccess(denies, allows)


@pytest.mark.parametrize("between", ["-", "_"])
def test_beam_takes_the_options_as_either_writes_them(between: str) -> None:
    names = [f"--deny{between}private{between}networks", f"--allow{between}link{between}local"]

    assert web_access.asked_by(PipelineOptions(names)) == WebAccess(True, True)
    sent = PipelineOptions(names).get_all_options(drop_default=True)
    assert web_access.asked_by(PipelineOptions.from_dictionary(sent)) == WebAccess(True, True)
