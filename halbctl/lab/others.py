"""What HALB's data plane is compared with: rules by hand, HAProxy, and a device that does nothing.

Each balances the ports of the load to the gateways of a lab, from a host without an agent.
"""

from __future__ import annotations

import subprocess

from halbctl.lab.compared import allow_many_connections
from halbctl.lab.load import PORTS
from halbctl.lab.modes import speak_as
from halbctl.lab.namespaces import INTERFACE, Host
from halbctl.lab.plan import CLIENT
from halbctl.lab.site import Site
from protocol.errors import Refused

_ASKING = "10.77.0.203"
"""Another address of the client: answers to it come back by the device that sends frames on."""


def balance_by_hand(site: Site, host: str, address: str) -> None:
    """What somebody writes who knows nftables and needs one Virtual Server."""
    run = site.network.run
    gateways = [gateway.ipv4 for gateway in site.plan.gateway_hosts]
    slots = ", ".join(f"{slot} : {gateway}" for slot, gateway in enumerate(gateways))
    ports = ", ".join(map(str, PORTS))
    key = f"jhash ip saddr . tcp sport mod {len(gateways)} seed 0x5eed"
    rules = f"""
table ip by_hand {{
  chain pre {{
    type nat hook prerouting priority dstnat; policy accept;
    ip daddr {address} tcp dport {{ {ports} }} dnat to {key} map {{ {slots} }}
  }}
  chain post {{
    type nat hook postrouting priority srcnat; policy accept;
    ct status dnat snat to {address}
  }}
}}
"""
    _own(site, host, address)
    run(host, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
    run(host, "sysctl", "-qw", f"net.ipv4.conf.{INTERFACE}.send_redirects=0")
    run(host, "nft", "-f", "-", text=rules)


def balance_with_proxy(site: Site, host: str, address: str) -> subprocess.Popen[bytes]:
    """HAProxy in TCP mode, until killed."""
    _own(site, host, address)
    allow_many_connections(site, host)  # as its operators do
    sections = [
        (
            "global\n  maxconn 4000\ndefaults\n  mode tcp\n  balance roundrobin\n"
            "  timeout connect 5s\n  timeout client 60s\n  timeout server 60s"
        )
    ]
    for port in PORTS:
        servers = "\n".join(
            f"  server {gateway.name} {gateway.ipv4}:{port}" for gateway in site.plan.gateway_hosts
        )
        sections.append(f"listen p{port}\n  bind {address}:{port}\n{servers}")
    path = site.folder / "haproxy.cfg"
    path.write_text("\n".join(sections) + "\n")
    argv = ["haproxy", "-db", "-q", "-f", str(path)]
    checked = subprocess.run([*argv, "-c"], capture_output=True, text=True, check=False)
    if checked.returncode:
        raise Refused(f"haproxy refuses {path}: {checked.stderr.strip()[-300:]}")
    return subprocess.Popen(site.network.within(host, argv), stderr=subprocess.DEVNULL)


def send_on(site: Site, host: str, address: str) -> None:
    """Frames between client and gateways take the way over ``host``, which changes nothing but
    their hardware addresses: what they take then, they take with every device."""
    gateways, device = site.plan.gateway_hosts, site.plan.host(host)
    for end in gateways:
        _lead(site, end, address, _ASKING, device)
    _lead(site, CLIENT, _ASKING, address, device)
    slots = ", ".join(f"{slot} : {gateway.mac}" for slot, gateway in enumerate(gateways))
    ways = (
        ("daddr", f"jhash ip saddr . tcp sport mod {len(gateways)} seed 0x5eed map {{ {slots} }}"),
        ("saddr", CLIENT.mac),
    )
    rules = "".join(
        f"    ip {end} {address} ether saddr set {device.mac} ether daddr set {to}"
        f' fwd to "{INTERFACE}"\n'
        for end, to in ways
    )
    hook = f'type filter hook ingress device "{INTERFACE}" priority 0; policy accept;'
    text = f"table netdev on {{\n  chain on {{\n    {hook}\n{rules}  }}\n}}\n"
    site.network.run(host, "nft", "-f", "-", text=text)


def _lead(site: Site, end: Host, own: str, other: str, device: Host) -> None:
    """Let ``end`` speak as ``own`` with ``other``, which it finds behind the device, unasked."""
    speak_as(site, end.name, own, other)
    entry = ("lladdr", device.mac, "nud", "permanent", "dev", INTERFACE)
    site.network.run(end.name, "ip", "neighbour", "replace", other, *entry)


def _own(site: Site, host: str, address: str) -> None:
    site.network.run(host, "ip", "address", "add", f"{address}/32", "dev", INTERFACE)
