"""Flows that nobody remembers: their packets are counted by gateway, both ways."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from msgspec.structs import replace

from agent.accounts import BY_GATEWAY
from agent.counters import Reading
from agent.ruleset import Desired
from halbctl.lab.servers import BANNER, ECHO, PUSH
from protocol.objects import Gateway, Listener
from tests.kernel.gateways import INNER, prepare
from tests.kernel.namespaces import (
    UID,
    VIPS,
    Device,
    Inside,
    asked,
    connect,
    hosts,
    virtual_server,
    wait_until,
)

pytestmark = pytest.mark.kernel

CLIENT = {4: "10.77.0.12", 6: "fd77::12"}
GATEWAY = {4: "10.77.0.13", 6: "fd77::13"}
LISTENERS = [
    Listener(protocol="udp", port=ECHO, gateway_port=ECHO),
    Listener(protocol="tcp", port=ECHO, last_port=PUSH, gateway_port=ECHO),
]
ASKED = 5


def wish(*listeners: Listener) -> Desired:
    gateways = [Gateway(name=f"gw{v}", address=address) for v, address in GATEWAY.items()]
    inner = (f"{INNER[4]}/24", f"{INNER[6]}/64")
    server = replace(
        virtual_server(gateways, listeners or LISTENERS), forwarding="routed", inner_vips=inner
    )
    return Desired((server,), {UID: (*VIPS, *INNER.values())})


class Farm:
    def __init__(self, device: Device, client: Inside) -> None:
        self.device, self.client = device, client

    def read(self) -> Reading:
        return self.device.call(self.device.plane.traffic)[0]

    def ask(self, vip: str) -> None:
        for _ in range(ASKED):
            self.client.call(asked, vip, ECHO, 3.0)


@pytest.fixture
def farm() -> Iterator[Farm]:
    with hosts("a", "client", "gw1", servers=["gw1"]) as network:
        device, client = Device(network, "a"), Inside(network, "client")
        device.reconcile(wish())
        prepare(network, "gw1", "routed", CLIENT)
        device.take((*VIPS, *INNER.values()))
        farm = Farm(device, client)
        yield farm
        farm.device.close()
        client.close()


@pytest.mark.parametrize("vip", VIPS)
def test_packets_to_and_from_the_gateway_are_counted(farm: Farm, vip: str) -> None:
    account = (GATEWAY[6 if ":" in vip else 4], "udp", ECHO)
    assert account not in farm.read().passed
    farm.ask(vip)
    wait_until(lambda: farm.read().answered[account].packets == ASKED, "every answer is counted")
    counted = farm.read()
    assert counted.passed[account].packets == ASKED
    assert counted.passed[account].bytes > ASKED * 28
    assert not counted.opened, "no flow is known"


def test_the_ports_of_a_range_are_one_account(farm: Farm) -> None:
    account = (GATEWAY[4], "tcp", ECHO)
    with farm.client.call(connect, VIPS[0], BANNER, 3.0) as sock:
        assert sock.recv(100)
    assert farm.read().passed[account].packets >= 2
    assert farm.read().answered[account].packets >= 2


def test_totals_survive_an_agent_that_starts_anew_and_rest_without_their_listener(
    farm: Farm,
) -> None:
    account = (GATEWAY[4], "udp", ECHO)
    farm.ask(VIPS[0])
    wait_until(lambda: farm.read().answered[account].packets == ASKED, "every answer is counted")
    farm.device.close()
    farm.device = Device(farm.device.network, "a")
    farm.device.reconcile(wish())
    assert farm.read().answered[account].packets == ASKED
    farm.device.reconcile(wish(LISTENERS[1]))
    assert "udp" not in farm.device.run("nft", "list", "set", "inet", "halb_count", "gateways")
    farm.device.reconcile(wish())
    assert farm.read().answered[account].packets == ASKED, "it is there again within the hour"


def test_a_table_of_another_release_makes_room_for_one_that_counts(farm: Farm) -> None:
    farm.device.close()
    key = "ipv4_addr . inet_proto . inet_service"
    lines = (f"{verb} table inet halb_count" for verb in ("add", "delete", "add"))
    other = "\n".join((*lines, f"add set inet halb_count passed {{ type {key}; counter; }}\n"))
    farm.device.network.run("a", "nft", "-f", "-", text=other)
    farm.device = Device(farm.device.network, "a")
    farm.device.reconcile(wish())
    farm.ask(VIPS[0])
    account = (GATEWAY[4], "udp", ECHO)
    wait_until(lambda: farm.read().passed[account].packets == ASKED, "each question is counted")


def test_accounts_of_what_is_gone_are_closed(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.closing.KEPT_S", 0.0)
    farm.ask(VIPS[0])
    wait_until(lambda: bool(farm.read().left), "something has left")
    farm.device.reconcile(wish(LISTENERS[1]))
    for _ in range(3):
        farm.read()
    for name in BY_GATEWAY:
        assert "udp" not in farm.device.run("nft", "list", "set", "inet", "halb_count", name)
    assert not farm.device.reconcile(wish(LISTENERS[1])).drift


def test_all_that_came_has_left_where_nobody_drops_anything(farm: Farm) -> None:
    account = (GATEWAY[4], "udp", ECHO)
    farm.ask(VIPS[0])
    with farm.client.call(connect, VIPS[0], BANNER, 3.0) as sock:
        assert sock.recv(100)
    wait_until(lambda: farm.read().left[account].packets == 2 * ASKED, "every packet has left")
    assert set(farm.read().stopped.values()) == {0}


def test_packets_are_not_looked_at_as_they_leave_where_all_flows_are_remembered(
    farm: Farm,
) -> None:
    assert "chain leaving" in farm.device.run("nft", "list", "table", "inet", "halb_count")
    known = [replace(each, client_connections=9) for each in LISTENERS]
    farm.device.reconcile(wish(*known))
    assert "chain leaving" not in farm.device.run("nft", "list", "table", "inet", "halb_count")
    farm.device.reconcile(wish())
    farm.ask(VIPS[0])
    assert set(farm.read().stopped.values()) == {0}


def test_a_table_that_did_not_count_what_leaves_does_so_from_now_on(farm: Farm) -> None:
    farm.ask(VIPS[0])
    farm.device.close()
    gone = ["chain inet halb_count leaving"]
    gone += (f"set inet halb_count left{end}{six}" for end in ("", "_range") for six in ("", "6"))
    script = "".join(f"delete {each}\n" for each in gone)
    farm.device.network.run("a", "nft", "-f", "-", text=f"flush {gone[0]}\n{script}")
    farm.device = Device(farm.device.network, "a")
    farm.device.reconcile(wish())
    before = farm.read()
    assert before.answered[GATEWAY[4], "udp", ECHO].packets == ASKED, "what was counted stays"
    farm.ask(VIPS[0])
    assert farm.read().left[GATEWAY[4], "udp", ECHO].packets == 2 * ASKED
    assert farm.read().stopped == before.stopped, "nothing seems to have been dropped since"
