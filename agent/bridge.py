"""A bridge as service interface, whose frames must not meet the rules of IP too soon.

With ``br_netfilter`` (container engines load it) a bridge gives each frame to the
rules of IP before it knows whether the frame is for this host. What they translate
is then sent on as a frame: past the lease, and with no address to answer to. So
nothing comes through a VIP there.
"""

from __future__ import annotations

from agent import netlink, sysctl

SETTINGS = ("net.bridge.bridge-nf-call-iptables", "net.bridge.bridge-nf-call-ip6tables")
"""Must be 0, and so must the `nf_call_...` that a bridge has of its own."""

_KIND, _DATA = 1, 2
"""IFLA_INFO_KIND and IFLA_INFO_DATA."""
_OWN = (36, 37)
"""IFLA_BR_NF_CALL_IPTABLES and its twin for IPv6."""


def filters(info: bytes) -> bool:
    """Whether a link, by its IFLA_LINKINFO, is a bridge that does so now."""
    values = dict(netlink.attributes(info))
    if values.get(_KIND, b"").rstrip(b"\0") != b"bridge":
        return False
    paths = (name.removeprefix("net.").replace(".", "/") for name in SETTINGS)
    everywhere = [sysctl.read(path, "") for path in paths]
    own = dict(netlink.attributes(values.get(_DATA, b"")))
    # Without the module nobody does what the bridge itself is set to.
    loaded = any(each is not None for each in everywhere)
    return loaded and (any(everywhere) or any(own.get(each, b"\0") != b"\0" for each in _OWN))
