"""Other firewalls on the same host: flows pass, or the operator is told which chain takes them.

The rulesets are those of the tools in shape: tables, hooks, priorities, policies.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.firewall import foreign_chains
from agent.host import HostWatch
from agent.meter import Sample
from halbctl.lab.servers import ECHO
from protocol.objects import Gateway, Listener
from tests.kernel.namespaces import (
    VIP,
    VIPS,
    Device,
    Inside,
    connect,
    desired,
    hosts,
    virtual_server,
)

pytestmark = pytest.mark.kernel

GATEWAYS = [Gateway(name="gw1", address="10.77.0.13"), Gateway(name="gw2", address="fd77::13")]
LISTENERS = [Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)]
WANTED = desired(virtual_server(GATEWAYS, LISTENERS))

FIREWALLD = """
table inet firewalld {
  chain mangle_PREROUTING {
    type filter hook prerouting priority mangle + 10; policy accept;
    icmpv6 type { nd-router-advert, nd-neighbor-solicit } accept
    meta nfproto ipv6 fib saddr . mark . iif oif missing drop
  }
  chain nat_PREROUTING {
    type nat hook prerouting priority dstnat + 10; policy accept;
  }
  chain nat_POSTROUTING {
    type nat hook postrouting priority srcnat + 10; policy accept;
    meta nfproto ipv4 oifname != "lo" masquerade
  }
  chain filter_INPUT {
    type filter hook input priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    iifname "lo" accept
    ct state invalid drop
    meta l4proto { icmp, icmpv6 } accept
    tcp dport 22 accept
    reject with icmpx type admin-prohibited
  }
  chain filter_FORWARD {
    type filter hook forward priority filter + 10; policy accept;
    ct state { established, related } accept
    ct status dnat accept
    ct state invalid drop
    reject with icmpx type admin-prohibited
  }
}
"""
DOCKER = """
table ip nat {
  chain PREROUTING {
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local tcp dport 7 dnat to 172.17.0.2:80
  }
  chain POSTROUTING {
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr 172.17.0.0/16 oifname != "docker0" masquerade
  }
}
table ip filter {
  chain DOCKER-USER {
    POLICY
  }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    jump DOCKER-USER
    oifname "docker0" ct state related,established accept
    iifname "docker0" accept
  }
}
table ip6 filter {
  chain DOCKER-USER {
    POLICY
  }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    jump DOCKER-USER
  }
}
""".replace("dport 7 ", f"dport {ECHO} ")
UFW = """
table TABLE filter {
  chain ufw-route {
    RULE
  }
  chain INPUT {
    type filter hook input priority filter; policy drop;
    iifname "lo" accept
    ct state related,established accept
    ct state invalid drop
    meta l4proto { icmp, icmpv6 } accept
    tcp dport 22 accept
  }
  chain FORWARD {
    type filter hook forward priority filter; policy drop;
    ct state related,established accept
    jump ufw-route
  }
}
"""
BY_HAND = """
table inet mine {
  chain input {
    type filter hook input priority filter; policy drop;
    iif lo accept
    ct state established,related accept
    meta l4proto { icmp, icmpv6 } accept
  }
  chain forward {
    type filter hook forward priority filter; policy drop;
    ct state established,related accept
    ct status dnat accept
  }
  chain out {
    type nat hook postrouting priority srcnat; policy accept;
    oifname "eth0" masquerade
  }
}
"""
ZONE = """
table inet zones {
  chain pre {
    type filter hook prerouting priority raw; policy accept;
    iifname "eth0" ct zone set 5
  }
  chain out {
    type filter hook output priority raw; policy accept;
    oifname "eth0" ct zone set 5
  }
}
"""
NOTRACK = f"""
table ip raw {{
  chain PREROUTING {{
    type filter hook prerouting priority raw; policy accept;
    tcp dport {ECHO} notrack
  }}
}}
"""


def ufw(rule: str) -> str:
    return "".join(
        UFW.replace("TABLE", family).replace("RULE", rule.format(ip=family, address=gateway))
        for family, gateway in (("ip", "10.77.0.13"), ("ip6", "fd77::13"))
    )


class Farm:
    def __init__(self, device: Device, client: Inside) -> None:
        self.device, self.client = device, client

    def load(self, rules: str) -> None:
        self.device.network.run("a", "nft", "-f", "-", text=rules)

    def echo(self, vip: str, timeout: float = 3.0) -> bytes:
        def once() -> bytes:
            with connect(vip, ECHO, timeout) as sock:
                sock.sendall(b"hello")
                return sock.recv(100)

        return self.client.call(once)

    def sample(self, at: float) -> Sample:
        return Sample(at, *self.device.call(self.device.plane.traffic))


@pytest.fixture
def farm(request: pytest.FixtureRequest) -> Iterator[Farm]:
    """A device; with a parameter those rules are loaded before HALB starts."""
    with hosts("a", "client", "gw1", servers=["gw1"]) as network:
        if before := getattr(request, "param", ""):
            network.run("a", "nft", "-f", "-", text=before)
        device, client = Device(network, "a"), Inside(network, "client")
        device.reconcile(WANTED)
        device.take()
        yield Farm(device, client)
        device.close()
        client.close()


ALLOWED = "ct status dnat accept"
FRIENDLY = {
    "firewalld": FIREWALLD,
    "docker": DOCKER.replace("POLICY", ALLOWED),
    "ufw": ufw("{ip} daddr {address} tcp dport " + str(ECHO) + " accept"),
    "by hand": BY_HAND,
    "conntrack zone": ZONE,
}


@pytest.mark.parametrize("farm", FRIENDLY.values(), ids=FRIENDLY.keys(), indirect=True)
def test_flows_pass_a_firewall_that_was_there_before(farm: Farm) -> None:
    for vip in VIPS:
        assert farm.echo(vip) == b"hello"
    assert not farm.device.reconcile(WANTED).drift


@pytest.mark.parametrize("rules", FRIENDLY.values(), ids=FRIENDLY.keys())
def test_flows_pass_a_firewall_that_comes_later(farm: Farm, rules: str) -> None:
    farm.load(rules)
    assert not farm.device.reconcile(WANTED).drift
    for vip in VIPS:
        assert farm.echo(vip) == b"hello"


def test_a_masquerade_of_others_takes_nothing_from_us(farm: Farm) -> None:
    """The next primary can only make the same entry if source and port are as expected."""
    farm.load(FIREWALLD + BY_HAND)
    with farm.client.call(connect, VIP, ECHO, 3.0) as sock:
        port = sock.getsockname()[1]
        listed = farm.device.run("conntrack", "-L", "-p", "tcp", "--reply-dst", VIP)
    assert f"dport={port} " in listed


BLOCKING = {
    "docker": (DOCKER.replace("POLICY", ""), "table ip filter, chain FORWARD, policy drop"),
    "ufw": (ufw("drop"), "table ip filter, chain FORWARD, policy drop"),
    "by hand": (
        BY_HAND.replace(ALLOWED, ""), "table inet mine, chain forward, policy drop",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("rules", "named"), BLOCKING.values(), ids=BLOCKING.keys())
def test_a_firewall_that_drops_flows_is_named(farm: Farm, rules: str, named: str) -> None:
    farm.load(rules)
    watch = HostWatch(look=lambda: farm.device.call(foreign_chains))
    watch.on_sample(farm.sample(0.0))
    with pytest.raises(TimeoutError):
        farm.echo(VIP, 0.2)
    watch.on_sample(farm.sample(1.0))
    [said] = watch.warnings(1.0)
    assert f"tcp/{ECHO} of {VIP}: 1 new flows" in said
    assert named in said


def test_rules_that_keep_packets_out_of_the_connection_table_are_named(farm: Farm) -> None:
    farm.load(NOTRACK)
    watch = HostWatch(look=lambda: farm.device.call(foreign_chains))
    watch.on_sample(farm.sample(0.0))
    with pytest.raises(TimeoutError):
        farm.echo(VIP, 0.2)
    watch.on_sample(farm.sample(1.0))
    [said] = watch.warnings(1.0)
    assert "table ip raw, chain PREROUTING" in said


@pytest.mark.parametrize("rules", [FIREWALLD, BY_HAND], ids=["firewalld", "by hand"])
def test_a_reload_that_flushes_everything_is_repaired_and_reported(farm: Farm, rules: str) -> None:
    farm.load("flush ruleset\n" + rules)
    done = farm.device.reconcile(WANTED)
    for table in ("inet halb", "inet halb_count", "netdev halb_lease"):
        assert f"table {table} was deleted" in done.drift
    assert done.lease_lost
    farm.device.take()
    for vip in VIPS:
        assert farm.echo(vip) == b"hello"
    assert not farm.device.reconcile(WANTED).drift
