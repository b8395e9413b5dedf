"""What a lab consists of: who is in it, with which address, and what it serves."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from string import ascii_lowercase
from typing import Any

from halbctl.lab.namespaces import Host, check_lab_name
from halbctl.lab.servers import BANNER, ECHO, PUSH
from protocol.errors import InvalidInput

MAX_DEVICES = 10
MAX_GATEWAYS = 20
CLIENT = Host("client", 201)
OBSERVER = Host("observer", 202)
WITNESS = Host("witness", 30)
VIP = "10.77.0.100"
VIP6 = "fd77::100"
INNER, INNER6 = "10.77.0.99", "fd77::99"
"""With ``routed`` gateways answer clients by way of these."""
VIRTUAL_SERVER = "web"
SNAT, MEMORY, MEMORYLESS, DSR = MODES = ("snat", "routed-memory", "routed-memoryless", "dsr")
"""Modes of forwarding. With ``routed`` the kernel remembers flows where gateways take turns,
and does not where a hash tells of them: each has promises of its own."""


@dataclass(frozen=True)
class Plan:
    """The size and options of a lab."""

    name: str = "lab"
    devices: int = 3
    gateways: int = 4
    witness: bool = False
    ipv6: bool = False
    spare: int = 0
    """So many of the gateways run, and are not behind the Virtual Server."""
    mode: str = SNAT
    """One of :data:`MODES`."""

    def __post_init__(self) -> None:
        check_lab_name(self.name)
        if not 1 <= self.devices <= MAX_DEVICES:
            raise InvalidInput(
                f"--devices {self.devices} is out of range", f"Use 1 to {MAX_DEVICES}."
            )
        if not 1 <= self.gateways <= MAX_GATEWAYS:
            raise InvalidInput(
                f"--gateways {self.gateways} is out of range", f"Use 1 to {MAX_GATEWAYS}."
            )
        if self.mode not in MODES:
            raise InvalidInput(f"no mode is named {self.mode!r}", f"Choose of: {', '.join(MODES)}.")

    @property
    def device_hosts(self) -> tuple[Host, ...]:
        """Devices ``a``, ``b``, ... at .11, .12, ...; a witness is the last."""
        hosts = [Host(ascii_lowercase[i], 11 + i) for i in range(self.devices)]
        return (*hosts, WITNESS) if self.witness else tuple(hosts)

    @property
    def gateway_hosts(self) -> tuple[Host, ...]:
        """Gateways ``gw1``, ``gw2``, ... at .31, .32, ..."""
        return tuple(Host(f"gw{i + 1}", 31 + i) for i in range(self.gateways))

    @property
    def hosts(self) -> tuple[Host, ...]:
        return (*self.device_hosts, *self.gateway_hosts, CLIENT, OBSERVER)

    @property
    def forwarding(self) -> str:
        """The mode as a document names it."""
        return self.mode.partition("-")[0]

    @property
    def inner_vips(self) -> tuple[str, ...]:
        """What the primary has besides the VIPs."""
        if self.forwarding != "routed":
            return ()
        return (INNER, INNER6) if self.ipv6 else (INNER,)

    @property
    def vips(self) -> tuple[str, ...]:
        return (VIP, VIP6) if self.ipv6 else (VIP,)

    def host(self, name: str) -> Host:
        """The host called ``name``; raise InvalidInput naming those that exist."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise InvalidInput(
            f"lab {self.name!r} has no host {name!r}",
            f"It has: {', '.join(host.name for host in self.hosts)}.",
        )

    def device(self, name: str) -> Host:
        """The device called ``name``; raise InvalidInput naming those that exist."""
        if self.host(name) not in self.device_hosts:
            known = ", ".join(host.name for host in self.device_hosts)
            raise InvalidInput(f"{name!r} is not a device", f"The devices are: {known}.")
        return self.host(name)

    def owner(self, mac: str) -> str:
        """Name of the host with a hardware address; the address itself if none has it."""
        return next((host.name for host in self.hosts if host.mac == mac), mac)

    def document(self, check_interval: float = 2.0, weights: tuple[int, ...] = ()) -> str:
        """The Site as ``halbctl apply`` takes it (JSON, which is YAML too).

        ``weights`` are those of the first gateways; all others have weight 1.
        """
        gateways = []
        for index, host in enumerate(self.gateway_hosts[: self.gateways - self.spare]):
            weight = weights[index] if index < len(weights) else 1
            gateways.append({"name": host.name, "address": host.ipv4, "weight": weight})
            if self.ipv6:
                name = f"{host.name}-6"
                gateways.append({"name": name, "address": host.ipv6, "weight": weight})
        check = {"type": "tcp", "interval": check_interval, "timeout": min(1.0, check_interval)}
        tcp = [{"protocol": "tcp", "port": port, "check": check} for port in (ECHO, BANNER, PUSH)]
        udp = {"protocol": "udp", "port": ECHO, "check": check}
        turns = {"balance": "round-robin"} if self.mode == MEMORY else {}
        virtual_server: dict[str, Any] = {
            "name": VIRTUAL_SERVER,
            "vips": list(map(_with_prefix, self.vips)),
            "gateways": gateways,
            "listeners": [listener | turns for listener in (*tcp, udp)],
        }
        if self.mode != SNAT:
            virtual_server["forwarding"] = self.forwarding
        if self.inner_vips:
            virtual_server["inner_vips"] = list(map(_with_prefix, self.inner_vips))
        if self.witness:
            virtual_server["witnesses"] = [WITNESS.name]
        elif self.devices == 2:
            virtual_server["arbiter"] = CLIENT.ipv4
        return json.dumps({"virtual_servers": [virtual_server]}, indent=2)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _with_prefix(vip: str) -> str:
    return f"{vip}/{64 if ':' in vip else 24}"
