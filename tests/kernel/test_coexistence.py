"""Other firewalls on the same host: flows pass, or the operator is told which chain takes them.

The rulesets are those of the tools in shape: tables, hooks, priorities, policies.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing, contextmanager

import pytest
from msgspec.structs import replace

from agent.doctor import examine
from agent.firewall import foreign_chains
from agent.host import HostWatch
from agent.meter import Sample
from agent.ruleset import Desired
from halbctl.lab.servers import ECHO
from protocol.config import Config, Edit
from protocol.ids import DeviceId
from protocol.objects import Device as StoredDevice
from protocol.objects import Gateway, Listener
from tests.kernel.gateways import INNER, prepare
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

CLIENT = {4: "10.77.0.12", 6: "fd77::12"}
GATEWAYS = [Gateway(name="gw1", address="10.77.0.13"), Gateway(name="gw2", address="fd77::13")]
LISTENER = Listener(protocol="tcp", port=ECHO, gateway_port=ECHO)
SNAT = virtual_server(GATEWAYS, [LISTENER])
ROUTED = replace(SNAT, forwarding="routed", inner_vips=(f"{INNER[4]}/24", f"{INNER[6]}/64"))
MODES = {
    "snat": SNAT,
    "dsr": replace(SNAT, forwarding="dsr"),
    "routed": ROUTED,
    "known": replace(ROUTED, listeners=(replace(LISTENER, client_connections=9),)),
}
"""``known`` is `routed` with memory."""
HOST = StoredDevice(
    id=DeviceId("00000000000000d1"), name="a", public_key="k" * 40, addresses=("10.77.0.11:7480",),
    joined=1,
)  # fmt: skip

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
    FORWARD
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
    ALLOWED
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
        self.wanted = Desired()

    def use(self, mode: str) -> None:
        """Serve in this mode."""
        server = MODES[mode]
        prepare(self.device.network, "gw1", mode, CLIENT)
        self.wanted = desired(server, server.leased)
        self.device.reconcile(self.wanted)
        self.take()

    def take(self) -> None:
        self.device.take(sorted(self.wanted.addresses))

    def load(self, rules: str) -> None:
        self.device.network.run("a", "nft", "-f", "-", text=rules)

    def echo(self, vip: str, timeout: float = 3.0) -> bytes:
        def once() -> bytes:
            with connect(vip, ECHO, timeout) as sock:
                sock.sendall(b"hello")
                return sock.recv(100)

        return self.client.call(once)

    def watch(self) -> HostWatch:
        """One that has looked once."""
        watch = HostWatch(look=lambda: self.device.call(foreign_chains))
        watch.on_sample(self.sample(0.0))
        return watch

    def said_of_a_lost_flow(self) -> str:
        """What status says after a client has dialled in vain."""
        watch = self.watch()
        with pytest.raises(OSError, match=r"timed out|No route|unreachable"):
            self.echo(VIP, 0.2)
        watch.on_sample(self.sample(1.0))
        [said] = watch.warnings(1.0)
        return said

    def sample(self, at: float) -> Sample:
        return Sample(at, *self.device.call(self.device.plane.traffic))


@contextmanager
def farms(mode: str, before: str = "") -> Iterator[Farm]:
    """A device that serves in this mode; rules ``before`` are loaded before HALB starts."""
    with hosts("a", "client", "gw1", servers=["gw1"]) as network:
        if before:
            network.run("a", "nft", "-f", "-", text=before)
        with closing(Device(network, "a")) as device, closing(Inside(network, "client")) as client:
            made = Farm(device, client)
            made.use(mode)
            yield made


@pytest.fixture
def farm() -> Iterator[Farm]:
    with farms("snat") as made:
        yield made


def allowed(mode: str) -> str:
    """What has to be let pass for a mode."""
    return "ct state untracked accept" if mode == "routed" else "ct status dnat accept"


def friendly(mode: str) -> dict[str, str]:
    """Firewalls as docs/data-plane.md has them configured."""
    forth, back = "{ip} daddr {address} tcp dport 7001 accept", "{ip} saddr {address} accept"
    return {
        "firewalld": FIREWALLD.replace("FORWARD\n", "oifname eth0 accept\n", 1),
        "docker": DOCKER.replace("POLICY", allowed(mode)),
        "ufw": ufw(f"{forth}; {back}" if mode == "routed" else forth),
        "by hand": BY_HAND.replace("ALLOWED", allowed(mode)),
        "conntrack zone": ZONE,
    }


CASES = [
    pytest.param(mode, rules, id=f"{mode} {name}")
    for mode in MODES
    for name, rules in friendly(mode).items()
]


@pytest.mark.parametrize(("mode", "rules"), CASES)
def test_flows_pass_a_firewall_that_was_there_before(mode: str, rules: str) -> None:
    with farms(mode, rules) as farm:
        for vip in VIPS:
            assert farm.echo(vip) == b"hello"
        assert not farm.device.reconcile(farm.wanted).drift


@pytest.mark.parametrize(("mode", "rules"), CASES)
def test_flows_pass_a_firewall_that_comes_later(mode: str, rules: str) -> None:
    with farms(mode) as farm:
        watch = farm.watch()
        farm.load(rules)
        assert not farm.device.reconcile(farm.wanted).drift
        for vip in VIPS:
            assert farm.echo(vip) == b"hello"
        watch.on_sample(farm.sample(1.0))
        assert not [*watch.warnings(1.0)]


def test_a_masquerade_of_others_takes_nothing_from_us(farm: Farm) -> None:
    """The next primary can only make the same entry if source and port are as expected."""
    rules = friendly("snat")
    farm.load(rules["firewalld"] + rules["by hand"])
    with farm.client.call(connect, VIP, ECHO, 3.0) as sock:
        port = sock.getsockname()[1]
        listed = farm.device.run("conntrack", "-L", "-p", "tcp", "--reply-dst", VIP)
    assert f"dport={port} " in listed


BLOCKING = {
    "docker": (DOCKER.replace("POLICY", ""), "table ip filter, chain FORWARD, policy drop"),
    "ufw": (ufw("drop"), "table ip filter, chain FORWARD, policy drop"),
    "by hand": (BY_HAND.replace("ALLOWED", ""), "table inet mine, chain forward, policy drop"),
}


@pytest.mark.parametrize(("rules", "named"), BLOCKING.values(), ids=BLOCKING.keys())
@pytest.mark.parametrize("mode", ["snat", "known"])
def test_a_firewall_that_drops_flows_is_named(mode: str, rules: str, named: str) -> None:
    with farms(mode) as farm:
        farm.load(rules)
        said = farm.said_of_a_lost_flow()
    assert f"tcp/{ECHO} of {VIP}: 1 new flows" in said
    assert named in said


ONE_WAY = BY_HAND.replace("ALLOWED", "ip daddr 10.77.0.13 accept")
FORGETFUL = {
    **{name: (rules.replace("ALLOWED", ""), named) for name, (rules, named) in BLOCKING.items()},
    "firewalld": (
        FIREWALLD.replace("FORWARD\n", "\n", 1), "table inet firewalld, chain filter_FORWARD",
    ),
    "answers": (ONE_WAY, "table inet mine, chain forward, policy drop"),
}  # fmt: skip


@pytest.mark.parametrize(("rules", "named"), FORGETFUL.values(), ids=FORGETFUL.keys())
def test_a_firewall_that_drops_packets_without_a_flow_is_named(rules: str, named: str) -> None:
    with farms("routed") as farm:
        farm.load(rules)
        said = farm.said_of_a_lost_flow()
    assert said.startswith(f"tcp/{ECHO} of gateway 10.77.0.13: ")
    assert "let pass there what has `ct state untracked`" in said
    assert named in said


@pytest.mark.parametrize("mode", MODES)
def test_the_doctor_doubts_chains_that_accept_only_where_flows_are_not_remembered(
    farm: Farm, mode: str
) -> None:
    farm.load(FIREWALLD.replace("FORWARD\n", "\n", 1))
    config = Config().edited(Edit(put=(HOST, MODES[mode])), 1)
    told = farm.device.call(lambda: asyncio.run(examine("a", HOST.id, "eth0", config, None, {})))
    found = told.findings
    doubts = [each for each in found if each.check == "firewall" and each.state == "warning"]
    assert [each.text.partition(":")[0] for each in doubts] == (
        ["table inet firewalld, chain filter_FORWARD"] if mode == "routed" else []
    )


def test_rules_that_keep_packets_out_of_the_connection_table_are_named(farm: Farm) -> None:
    farm.load(NOTRACK)
    said = farm.said_of_a_lost_flow()
    assert "table ip raw, chain PREROUTING" in said


@pytest.mark.parametrize("name", ["firewalld", "by hand"])
@pytest.mark.parametrize("mode", ["snat", "routed"])
def test_a_reload_that_flushes_everything_is_repaired_and_reported(mode: str, name: str) -> None:
    with farms(mode) as farm:
        farm.load("flush ruleset\n" + friendly(mode)[name])
        done = farm.device.reconcile(farm.wanted)
        for table in ("inet halb", "inet halb_count", "netdev halb_lease"):
            assert f"table {table} was deleted" in done.drift
        assert done.lease_lost
        farm.take()
        for vip in VIPS:
            assert farm.echo(vip) == b"hello"
        assert not farm.device.reconcile(farm.wanted).drift
