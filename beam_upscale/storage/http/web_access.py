"""The rules on addresses of a network that may be connected to for a URL.

The author of a table of URLs decides where the workers connect to. Link-local addresses, where
clouds give out keys, are refused unless they are allowed; private networks are refused on request.
An address is checked when it is connected to, so that no redirect and no other answer of a name
server leads to a refused one.

The rules are among Beam's options, and go with each input besides: a worker of a pool that was
started before the pipeline does not know the pipeline's options.
"""

import contextlib
import contextvars
import dataclasses
import ipaddress
from collections.abc import Iterator
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import PipelineOptions

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address

# Addresses of clouds' metadata besides link-local ones: those of AWS, GCP and Oracle in IPv6, of
# Alibaba, Azure and Oracle in IPv4.
_METADATA = frozenset(
    map(
        ipaddress.ip_address,
        (
            *("fd00:ec2::254", "fd20:ce::254", "fd00:c1::a9fe:a9fe"),
            *("100.100.100.200", "168.63.129.16", "192.0.0.192"),
        ),
    )
)
_METADATA_NAMES = frozenset({"metadata.google.internal", "metadata.goog"})

# Prefixes of IPv6 that an IPv4 address follows: NAT64 (RFC 6052, RFC 8215) and IPv4-compatible
# addresses (RFC 4291); Python's library itself knows others.
_EMBEDDING = tuple(
    map(ipaddress.IPv6Network, ("64:ff9b::/96", "64:ff9b:1::/48", "::/96", "::ffff:0:0:0/96"))
)


class WebOptions(PipelineOptions):
    """The options of a pipeline on the addresses that may be connected to."""

    @classmethod
    def _add_argparse_args(cls, parser: Any) -> None:
        parser.add_argument(
            "--deny_private_networks",
            # Also as the command line spells it: a denial that Beam ignored would be none.
            "--deny-private-networks",
            action="store_true",
            default=False,
            help="Refuse URLs whose host is this machine or on a private network.",
        )
        parser.add_argument(
            "--allow_link_local",
            "--allow-link-local",
            action="store_true",
            default=False,
            help="Read URLs whose host has a link-local address, where clouds give out keys.",
        )


@dataclasses.dataclass(frozen=True)
class WebAccess:
    """The rules on the addresses that may be connected to.

    Attributes:
        denies_private: whether this machine and private networks are refused.
        allows_link_local: whether link-local addresses may be connected to.
    """

    denies_private: bool = False
    allows_link_local: bool = False

    def joined(self, other: "WebAccess") -> "WebAccess":
        """Returns rules that deny what either denies, and allow what either allows."""
        return WebAccess(
            self.denies_private or other.denies_private,
            self.allows_link_local or other.allows_link_local,
        )

    def refusal(self, address: str) -> str | None:
        """Returns why an IP address is refused; None if it may be connected to.

        Args:
            address: the address as a resolver gives it, perhaps with a zone.
        """
        forms = list(_forms(ipaddress.ip_address(address.partition("%")[0])))
        if not self.allows_link_local and any(map(_is_link_local, forms)):
            return (
                "its host has a link-local address, or that of a cloud's metadata, which a URL may "
                "lead to only with --allow-link-local"
            )
        if self.denies_private and any(map(_is_private, forms)):
            return "its host is on a private network, which --deny-private-networks forbids"
        return None

    def refusal_of_host(self, host: str) -> str | None:
        """Returns why a host is refused before its name is looked up, such as by a proxy, or None.

        Args:
            host: the host of a `WebUrl`.
        """
        name = host.strip("[]").removesuffix(".")
        if name == "localhost" or name.endswith(".localhost"):
            return self.refusal("127.0.0.1")
        if name in _METADATA_NAMES:
            return self.refusal("169.254.169.254")
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return None
        return self.refusal(name)


def _forms(address: _Address) -> Iterator[_Address]:
    """Yields an address and the IPv4 addresses that it stands for."""
    yield address
    if isinstance(address, ipaddress.IPv4Address):
        return
    inner = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _EMBEDDING):
        inner.append(ipaddress.IPv4Address(int(address) & 0xFFFFFFFF))
    yield from (each for each in inner if each is not None)


def _is_link_local(address: _Address) -> bool:
    return address.is_link_local or address in _METADATA


def _is_private(address: _Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None or any(address in network for network in _EMBEDDING):
            # The embedded IPv4 address decides, except for addresses of this machine itself.
            return address.is_loopback or address.is_unspecified
        if address.is_site_local:
            return True
    is_elsewhere = address.is_global and not address.is_multicast
    return not is_elsewhere and not _is_link_local(address)


DEFAULT = WebAccess()

_within = contextvars.ContextVar("web_access", default=DEFAULT)

# The last options with their view: making one takes Beam half a millisecond. Values that are set
# later show in the view.
_latest: tuple[PipelineOptions, WebOptions] | None = None


def access() -> WebAccess:
    """Returns the rules that hold now, by the process's options and by `within`."""
    # Beam puts the options of a pipeline there, in the submitting process and in most workers.
    return _asked_by(FileSystems._pipeline_options).joined(_within.get())


@contextlib.contextmanager
def within(asked: WebAccess) -> Iterator[None]:
    """Applies rules within the block, in addition to those that hold already."""
    token = _within.set(_within.get().joined(asked))
    try:
        yield
    finally:
        _within.reset(token)


def asked_by(options: PipelineOptions) -> WebAccess:
    """Returns the rules that a pipeline's options set."""
    known = options.view_as(WebOptions)
    return WebAccess(bool(known.deny_private_networks), bool(known.allow_link_local))


def _asked_by(options: object) -> WebAccess:
    """Returns the same as `asked_by`, faster for the same options; default rules for None."""
    global _latest
    if not isinstance(options, PipelineOptions):
        return DEFAULT
    latest = _latest
    if latest is None or latest[0] is not options:
        _latest = latest = options, options.view_as(WebOptions)
    known = latest[1]
    return WebAccess(bool(known.deny_private_networks), bool(known.allow_link_local))


def beam_arguments(deny_private_networks: bool, allow_link_local: bool) -> tuple[str, ...]:
    """Returns the options as arguments of Beam's command lines."""
    found = {
        "--deny_private_networks": deny_private_networks,
        "--allow_link_local": allow_link_local,
    }
    return tuple(name for name, is_given in found.items() if is_given)
