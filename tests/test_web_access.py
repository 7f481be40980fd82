"""Which addresses may be connected to for a URL."""

import apache_beam as beam
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

import beam_upscale as bu
from beam_upscale import web_access
from beam_upscale.web_access import WebAccess, WebOptions


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


def test_every_worker_has_the_options_of_its_pipeline() -> None:
    pipeline = beam.Pipeline(options=PipelineOptions(["--deny_private_networks"]))
    assert web_access.access() == WebAccess(denies_private=True)

    # Reading adds to what the command line says.
    _ = pipeline | bu.ReadImages("photos", allow_link_local=True)

    sent = PipelineOptions.from_dictionary(pipeline.options.get_all_options(drop_default=True))
    assert sent.view_as(WebOptions).deny_private_networks
    assert sent.view_as(WebOptions).allow_link_local
    assert web_access.access() == WebAccess(denies_private=True, allows_link_local=True)

    FileSystems.set_options(PipelineOptions([]))
    assert web_access.access() == WebAccess()


def test_options_of_the_command_line_are_beams() -> None:
    for denies in (False, True):
        for allows in (False, True):
            FileSystems.set_options(PipelineOptions(web_access.beam_arguments(denies, allows)))
            assert web_access.access() == WebAccess(denies, allows)
