"""New connections as fast as a device carries them, between ends that take next to nothing.

Where client and gateways share a machine with the device, most of a connection's time goes into
their sockets and processes, and the rate tells of them more than of the device. What tests a
device must not be the limit itself (as RFC 9411 wants). So client and gateways of this load
are programs of the kernel at their interfaces (XDP, :file:`ends.c`), which answer each packet
with the next one of a connection.

Loading them needs root on the machine, and clang. ``python -m halbctl.lab.ends ADDRESS`` opens the
first connection of each lane.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from halbctl.lab.load import CARRY
from halbctl.lab.namespaces import INTERFACE
from halbctl.lab.owners import internet_checksum
from halbctl.lab.plan import CLIENT
from halbctl.lab.probes import python_environment
from halbctl.lab.site import Site
from protocol.errors import Refused

LANES = 64
"""Connections at the same time."""
FIRST_PORT = 2048
"""Each lane uses every 64th port from here on."""
PAYLOAD = 16
"""Bytes of a request, and of its answer."""
PACKETS = 3
"""What a client sends in one connection: SYN, its request, its end."""
_SETTLE = 0.1
"""Seconds of load before it is measured."""
_SOURCE = Path(__file__).with_suffix(".c")
_SYN, _HEADER, _WINDOW = 2, 20, 65000


def prepare_ends(site: Site) -> Path:
    """Compile the programs and try whether the kernel takes them; raise Refused with the reason."""
    if shutil.which("clang") is None:
        raise Refused("clang is not installed (apt install clang)")
    path = site.folder / "ends.o"
    given = {"PORT": CARRY, "LANES": LANES, "FIRST_PORT": FIRST_PORT, "PAYLOAD": PAYLOAD}
    argv = ["clang", "-O2", "-target", "bpf", f"-I/usr/include/{os.uname().machine}-linux-gnu"]
    argv += [f"-D{name}={value}" for name, value in given.items()]
    done = subprocess.run(
        [*argv, "-c", str(_SOURCE), "-o", str(path)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise Refused(f"clang does not compile {_SOURCE}: {done.stderr.strip()[-300:]}")
    with _attached(site, path, [CLIENT.name], "client"):
        return path


def carry(site: Site, programs: Path, address: str, seconds: float) -> float:
    """Connections per second through whoever has ``address``, begun and ended by both ends.

    Raise Refused where none goes through.
    """
    gateways = [host.name for host in site.plan.gateway_hosts]
    with (
        _attached(site, programs, [CLIENT.name], "client"),
        _attached(site, programs, gateways, "gateway"),
    ):
        argv = [sys.executable, "-m", "halbctl.lab.ends", address]
        subprocess.run(site.network.within(CLIENT.name, argv), env=python_environment(), check=True)
        time.sleep(_SETTLE)
        before, began = _sent(site), time.perf_counter()
        time.sleep(seconds)
        count, took = (_sent(site) - before) / PACKETS, time.perf_counter() - began
    if count < LANES:
        raise Refused(f"no connections go through {address} port {CARRY}")
    return count / took


@contextmanager
def _attached(site: Site, programs: Path, hosts: Sequence[str], part: str) -> Iterator[None]:
    at = ("ip", "link", "set", "dev", INTERFACE, "xdpgeneric")
    with ExitStack() as attached:
        for host in hosts:
            site.network.run(host, *at, "obj", str(programs), "sec", f"xdp/{part}")
            attached.callback(site.network.run, host, *at, "off")
        yield


def _sent(site: Site) -> int:
    """Packets that have left the client's interface."""
    printed = site.network.run(CLIENT.name, "ip", "-j", "-s", "link", "show", "dev", INTERFACE)
    count: int = json.loads(printed)[0]["stats64"]["tx"]["packets"]
    return count


def open_lanes(address: str) -> None:
    """Send the first packet of each lane's first connection."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect((address, CARRY))
        ends = socket.inet_aton(asked.getsockname()[0]) + socket.inet_aton(address)
    sequence = time.monotonic_ns() >> 14 << 6 & 0xFFFFFFFF
    pseudo = ends + struct.pack("!HH", socket.IPPROTO_TCP, _HEADER)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP) as sock:
        for lane in range(LANES):
            ports = struct.pack("!HH", FIRST_PORT + lane, CARRY)
            rest = struct.pack("!IIBBH", sequence, 0, _HEADER << 2, _SYN, _WINDOW)
            checksum = internet_checksum(pseudo + ports + rest + bytes(4))
            sock.sendto(ports + rest + struct.pack("!HH", checksum, 0), (address, 0))


if __name__ == "__main__":
    open_lanes(sys.argv[1])
