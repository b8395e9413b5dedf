"""The kernel settings that forwarding and survival of connections rest on.

``survey`` says which differ, ``enforce`` writes them, ``restore`` puts back
what was there before. The former values travel as a short note, which the data
plane keeps with its kernel tables: it lives exactly as long as they do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from agent.capability import CapabilityMissing
from protocol.errors import HalbError

ROOT = Path("/proc/sys/net")
ESTABLISHED = "netfilter/nf_conntrack_tcp_timeout_established"
"""Seconds for which the kernel remembers a silent connection; the host's own matter."""

FORWARDING: tuple[tuple[str, int], ...] = (
    # Forwarding hosts ignore router advertisements unless told 2: before it is turned on.
    ("ipv6/conf/{interface}/accept_ra", 2),
    ("ipv4/ip_forward", 1),
    ("ipv6/conf/all/forwarding", 1),
    # A new primary picks up flows in the middle, with sequence numbers it never saw.
    ("netfilter/nf_conntrack_tcp_be_liberal", 1),
    ("netfilter/nf_conntrack_tcp_loose", 1),
    # Client and gateways share the network; they must not be told to skip the device.
    ("ipv4/conf/all/send_redirects", 0),
    ("ipv4/conf/{interface}/send_redirects", 0),
    # Without it the kernel asks for neighbours in the name of a VIP.
    ("ipv4/conf/all/arp_announce", 2),
    ("ipv6/conf/{interface}/keep_addr_on_down", 1),
    # Without events no other device learns of a flow.
    ("netfilter/nf_conntrack_events", 2),
    # Looking each packet up among this host's own sockets first slows down what is forwarded.
    ("ipv4/ip_early_demux", 0),
    # Each interface may be told otherwise than the host: by systemd-networkd, for instance.
    ("ipv4/conf/{interface}/forwarding", 1),
)
"""(path below /proc/sys/net, value), in the order in which they are written."""
SPEED = frozenset({"ipv4/ip_early_demux"})
"""Those that a device can do without."""
HEARD = 2
"""Router advertisements are heard also by a host that forwards."""
_HOST, _OWN = "ipv4/ip_forward", "ipv4/conf/{interface}/forwarding"
_EVERYWHERE = "ipv6/conf/all/forwarding"
_TURNED_ON = {_HOST: "ipv4", _EVERYWHERE: "ipv6"}
"""What makes this host forward, by setting."""
_REDIRECTS = "ipv4/conf/all/accept_redirects"
_BY_KEY = {str(at): path for at, (path, _) in enumerate(FORWARDING)} | {"r": _REDIRECTS}
"""Settings of this host and of the service interface, as notes name them."""
_MOST_NOTED = 110
"""Characters of a note: nftables has room for 128, of which some are the gate's."""
_NOTED = re.compile(r"([46]?)\+([A-Za-z0-9_.@-]{1,15})")
"""An interface: of which protocol it forwards, else that it hears router advertisements."""


class SysctlRefused(HalbError):
    """A kernel setting is wrong and cannot be changed by this process."""


def read(path: str, interface: str) -> int | None:
    """The present value, or None where this kernel has no such setting (no IPv6)."""
    try:
        return int((ROOT / path.format(interface=interface)).read_text())
    except FileNotFoundError:
        return None


def survey(interface: str) -> dict[str, int]:
    """The settings whose value is not as needed, with their present value, by path.

    Those of other interfaces come first, as :func:`_hearing` says. Raises
    :class:`SysctlRefused` if the kernel does not track connections.
    """
    found = {path: read(path, interface) for path, _ in FORWARDING}
    absent = [path for path, value in found.items() if value is None and "netfilter" in path]
    if absent:
        raise SysctlRefused(
            f"this kernel has no {_name(absent[0], interface)}",
            "Load connection tracking: modprobe nf_conntrack",
        )
    wrong = {
        path: value
        for path, wanted in FORWARDING
        if (value := found[path]) is not None and value != wanted and _matters(path, value)
    }
    if _HOST in wrong:
        wrong.pop(_OWN, None)  # it follows
    return (_hearing(interface) if _EVERYWHERE in wrong else {}) | wrong


def wanted(path: str) -> int:
    """The value that a setting is to have, of those that :func:`survey` names."""
    return dict(FORWARDING).get(path, HEARD)


def _hearing(interface: str) -> dict[str, int]:
    """Other interfaces that hear router advertisements while this host does not forward.

    The moment that it does, the kernel would take away the default routes that they learnt,
    and hear none again: this host might be managed, or find its peers, through one of them.
    """
    found = {}
    for name in _interfaces("ipv6"):
        path = f"ipv6/conf/{name}/accept_ra"
        heard = (read(path, ""), read(f"ipv6/conf/{name}/forwarding", "")) == (1, 0)
        if heard and name not in {"default", interface}:
            found[path] = 1
    return found


def _taken_along(wrong: Mapping[str, int]) -> dict[str, int]:
    """What the kernel makes otherwise by itself when this host forwards, or forwards no more.

    Every interface follows, also one that forwarded alone; and a host that stops accepts
    redirects of ICMP, whoever turned them off.
    """
    found = {
        path: 1
        for turned, protocol in _TURNED_ON.items()
        if turned in wrong
        for path in (f"{protocol}/conf/{name}/forwarding" for name in _interfaces(protocol))
        if read(path, "") == 1
    }
    accepts = read(_REDIRECTS, "")
    return found | ({_REDIRECTS: 0} if _HOST in wrong and accepts == 0 else {})


def _interfaces(protocol: str) -> list[str]:
    """Names that have settings of their own; ``default`` is for those to come."""
    names = sorted(os.listdir(ROOT / protocol / "conf"))
    # Braces mean something else in a path.
    return [name for name in names if name not in {"all", "lo"} and not {"{", "}"} & set(name)]


def _matters(path: str, value: int) -> bool:
    """Whether a value that differs is wrong.

    Router advertisements stay off where the operator turned them off; events of
    connections are on with 1, too.
    """
    if path.endswith("events"):
        return value == 0
    return not (path.endswith("accept_ra") and value == 0)


def former(interface: str) -> dict[str, int]:
    """What :func:`enforce` would change, also by the way, with its present value, by path."""
    if read_only():
        return {}
    wrong = survey(interface)
    return _taken_along(wrong) | wrong


def require_changeable(interface: str) -> None:
    """Raise :class:`SysctlRefused` with the command for the host, if it alone could help.

    That is where more than :data:`SPEED` is lost by a read-only /proc/sys, as in a container.
    """
    needed = _needed(interface)
    if needed.keys() <= SPEED or not read_only():
        return
    settings = [f"{_name(path, interface)}={value}" for path, value in needed.items()]
    raise SysctlRefused(
        f"the kernel setting {settings[0]} is missing, and /proc/sys is read-only here",
        f"Set on the host, and in its /etc/sysctl.d to last: sysctl -w {' '.join(settings)}",
    )


def enforce(interface: str) -> tuple[str, ...]:
    """Write every setting that is not as needed; return those written, as ``name = value``.

    Raises as :func:`require_changeable`.
    """
    needed = _needed(interface)
    if not needed:
        return ()
    require_changeable(interface)
    if read_only():
        return ()
    for path, value in needed.items():
        _write(path, interface, value)
    return tuple(f"{_name(path, interface)} = {value}" for path, value in needed.items())


def _needed(interface: str) -> dict[str, int]:
    return {path: wanted(path) for path in survey(interface)}


def read_only() -> bool:
    """Whether only the host can change kernel settings."""
    return bool(os.statvfs(ROOT).f_flag & os.ST_RDONLY)


def restore(interface: str, former: Mapping[str, int]) -> None:
    """Put back former values, last written first; skip those of an interface that is gone.

    Where /proc/sys is read-only, what differs was set from outside, and stays.
    """
    if read_only():
        return
    for path, value in reversed(list(former.items())):
        present = read(path, interface)
        if present is not None and present != value:
            _write(path, interface, value)


def note(former: Mapping[str, int]) -> str:
    """Former values as a short text: ``position:value`` of each in :data:`FORWARDING`.

    Then the names of interfaces, as many as there is room for: those that forwarded, and those
    that heard router advertisements, for which without forwarding :data:`HEARD` is the same.
    """
    keys = {path: key for key, path in _BY_KEY.items()}
    text = " ".join(f"{keys[path]}:{former[path]}" for path in former if path in keys)
    for path in sorted(former.keys() - keys):
        protocol, _, name, setting = path.split("/")
        item = f"{protocol.removeprefix('ipv') if setting == 'forwarding' else ''}+{name}"
        if _NOTED.fullmatch(item) and len(text) + len(item) + 1 <= _MOST_NOTED:
            text += f" {item}"
    return text


def from_note(text: str) -> dict[str, int]:
    """The opposite of :func:`note`; what does not belong to it is left out."""
    others: dict[str, int] = {}
    former: dict[str, int] = {}
    for item in text.split():
        key, colon, value = item.partition(":")
        if noted := _NOTED.fullmatch(item):
            forwards, name = noted.groups()
            setting = f"ipv{forwards}/conf/{name}/forwarding"
            others[setting if forwards else f"ipv6/conf/{name}/accept_ra"] = 1
        elif colon and key in _BY_KEY and _is_number(value):
            former[_BY_KEY[key]] = int(value)
    return others | former


def _is_number(text: str) -> bool:
    return text.removeprefix("-").isdecimal()


def _name(path: str, interface: str) -> str:
    """The name as ``sysctl`` takes it; its form with slashes also allows dots in names."""
    return "net/" + path.format(interface=interface)


def _write(path: str, interface: str, value: int) -> None:
    try:
        (ROOT / path.format(interface=interface)).write_text(f"{value}\n")
    except FileNotFoundError:
        return  # its interface has gone meanwhile
    except PermissionError as error:
        raise CapabilityMissing(
            ["CAP_NET_ADMIN"], f"set {_name(path, interface)} to {value}"
        ) from error
