"""Network namespaces on one switch, and the cuts between them.

Each host of a lab is a network namespace with one interface ``eth0``; all are
ports of a bridge that has a namespace to itself. So nothing is ever added to
the network of the machine that the lab runs on, and removing the namespaces
removes everything. Names are ``halb-lab.LAB.HOST``; a dot is in neither part.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from halbctl.lab.realm import Realm
from protocol.errors import InvalidInput

SWITCH = "switch"
INTERFACE = "eth0"
_BRIDGE = "br0"
_NAME = re.compile(r"^[a-z0-9][a-z0-9-]{0,11}$")
_PAIR = re.compile(r'"p-([a-z0-9-]+)" \. "p-([a-z0-9-]+)"')
_CUTS = """table bridge cuts {
  set pairs { type ifname . ifname; }
  chain forward {
    type filter hook forward priority 0; policy accept;
    iifname . oifname @pairs drop
  }
}
"""


@dataclass(frozen=True)
class Host:
    """One network namespace of a lab."""

    name: str
    number: int
    """Last part of its addresses, 1 to 254."""

    @property
    def mac(self) -> str:
        """Address of its interface: tells in a capture who answers."""
        return f"02:48:41:4c:42:{self.number:02x}"

    @property
    def ipv4(self) -> str:
        return f"10.77.0.{self.number}"

    @property
    def ipv6(self) -> str:
        """Written with the digits of the IPv4 address: 10.77.0.31 is fd77::31."""
        return f"fd77::{self.number}"


def check_lab_name(name: str) -> str:
    """Return ``name`` if it may name a lab or a host; raise InvalidInput otherwise."""
    if not _NAME.match(name):
        raise InvalidInput(
            f"{name!r} cannot name a lab", "Use 1 to 12 lower-case letters, digits or '-'."
        )
    return name


@dataclass(frozen=True)
class Network:
    """The namespaces of one lab."""

    lab: str
    realm: Realm

    def namespace(self, host: str) -> str:
        return f"halb-lab.{self.lab}.{host}"

    def within(self, host: str, argv: Sequence[str]) -> list[str]:
        """``argv`` as it must be started from here to run on a host of the lab."""
        return self.realm.within(self.namespace(host), argv)

    def run(self, host: str, *argv: str, text: str | None = None) -> str:
        """Run a short command on a host; return its output, raise Refused if it fails."""
        return self.realm.run("ip", "netns", "exec", self.namespace(host), *argv, text=text)

    def build(self, hosts: Iterable[Host], ipv6: bool = True) -> None:
        """Make the switch and all hosts; on an error what was made stays for :meth:`remove`."""
        switch = self.namespace(SWITCH)
        self.realm.run("ip", "netns", "add", switch)
        self._batch(
            SWITCH,
            f"link add name {_BRIDGE} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
            f"link set {_BRIDGE} up",
        )
        self.run(SWITCH, "nft", "-f", "-", text=_CUTS)
        for host in hosts:
            self._add(host, ipv6)

    def _add(self, host: Host, ipv6: bool) -> None:
        self.realm.run("ip", "netns", "add", self.namespace(host.name))
        self.wire(host, ipv6)

    def wire(self, host: Host, ipv6: bool = True) -> None:
        """Give a host its interface, which it does not have or has lost."""
        namespace, port = self.namespace(host.name), _port(host.name)
        self._batch(
            SWITCH,
            f"link add name {port} type veth peer name {INTERFACE} "
            f"address {host.mac} netns {namespace}",
            f"link set {port} master {_BRIDGE}",
            f"link set {port} up",
        )
        lines = [
            "link set lo up",
            f"link set {INTERFACE} up",
            f"addr add {host.ipv4}/24 broadcast 10.77.0.255 dev {INTERFACE}",
        ]
        if ipv6:
            # Until the kernel's own link-local address is past its duplicate detection, it
            # can look for no neighbour on behalf of others: the first packets would be lost.
            lines.insert(0, f"link set {INTERFACE} addrgenmode none")
            lines += [
                f"addr add {address}/64 dev {INTERFACE} nodad"
                for address in (host.ipv6, f"fe80::{host.number}")
            ]
        self._batch(host.name, *lines)

    def give(self, host: str, addresses: Iterable[str]) -> None:
        """Give a host more IPv4 addresses; no error if it has them."""
        lines = [f"addr replace {address}/24 dev {INTERFACE}" for address in addresses]
        self._batch(host, *lines)

    def _batch(self, host: str, *lines: str) -> None:
        self.realm.run("ip", "-n", self.namespace(host), "-batch", "-", text="\n".join(lines))

    def unplug(self, host: str) -> None:
        """Take the cable out: the host loses its carrier."""
        self._batch(SWITCH, f"link set {_port(host)} down")

    def plug(self, host: str) -> None:
        """Put the cable back in."""
        self._batch(SWITCH, f"link set {_port(host)} up")

    def cut(self, one: str, other: str) -> None:
        """Drop every frame between two hosts; each still sees all others."""
        self._pairs("add", one, other)

    def heal(self, one: str, other: str) -> None:
        """Undo :meth:`cut`; no error if there was none."""
        self._pairs("add", one, other)  # deleting what is absent would be an error
        self._pairs("delete", one, other)

    def heal_all(self) -> None:
        """Undo every :meth:`cut`."""
        self.run(SWITCH, "nft", "flush", "set", "bridge", "cuts", "pairs")

    def _pairs(self, verb: str, one: str, other: str) -> None:
        a, b = _port(one), _port(other)
        elements = f'{{ "{a}" . "{b}", "{b}" . "{a}" }}'
        self.run(SWITCH, "nft", "-f", "-", text=f"{verb} element bridge cuts pairs {elements}\n")

    def unplugged(self) -> set[str]:
        """Hosts whose cable is out."""
        links = json.loads(self.realm.run("ip", "-n", self.namespace(SWITCH), "-j", "link"))
        ports = {link["ifname"]: "UP" in link["flags"] for link in links}
        return {port[2:] for port, up in ports.items() if port.startswith("p-") and not up}

    def cuts(self) -> set[tuple[str, str]]:
        """Pairs of hosts that are cut from each other, each in both orders."""
        text = self.run(SWITCH, "nft", "list", "set", "bridge", "cuts", "pairs")
        return {(one, other) for one, other in _PAIR.findall(text)}

    def existing(self) -> list[str]:
        """Namespaces of this lab that exist now, whatever a state file says."""
        prefix = self.namespace("")
        names = self.realm.run("ip", "netns", "list").split("\n")
        return [line.split()[0] for line in names if line.startswith(prefix)]

    def processes(self) -> set[int]:
        """Processes that run in a namespace of this lab."""
        found: set[int] = set()
        for namespace in self.existing():
            found.update(map(int, self.realm.run("ip", "netns", "pids", namespace).split()))
        return found

    def remove(self) -> None:
        """Remove every namespace of this lab; may be called at any time, again and again."""
        for namespace in self.existing():
            self.realm.run("ip", "netns", "delete", namespace)


def _port(host: str) -> str:
    """Name of a host's port on the switch (a bare ``a`` would read as a keyword to ``ip``)."""
    return f"p-{host}"


def namespaces_of_this_host() -> set[str]:
    """Names of all network namespaces known to ``ip netns`` here; for tests of cleaning up."""
    directory = Path("/run/netns")
    return {entry.name for entry in directory.iterdir()} if directory.is_dir() else set()
