"""A primary that could go on, and is not to: it waits for a successor that has all flows."""

from __future__ import annotations

import msgspec

from protocol.changes import Change, PutVirtualServer, SetDevice
from protocol.effects import Acquire, Event, Fitness, Outcome, Propose, Stop, Stopped
from protocol.flows import Behind
from protocol.flush import PRESSING_NS
from protocol.ids import DeviceId
from protocol.messages import Vote
from protocol.moving import LOOK_NS, PATIENCE_NS
from protocol.rendering import document_of
from protocol.timing import MILLISECOND, SECOND
from protocol.view import Role
from tests.unit.cluster import RDP, Cluster, server

LACKS = Behind(((RDP, "is still being told the flows of the primary"),))
NO_CARRIER = Fitness(((RDP, "interface eth0 has no carrier"),))
DRAIN = SetDevice("d1", drained=True)
NEVER_NS = 3600 * SECOND


def cluster_of(n: int, *carriers: int) -> tuple[Cluster, DeviceId]:
    """A Site of ``n`` devices, of which some carry its Virtual Server, and the primary: ``d1``."""
    devices = tuple(each.id for each in Cluster(n).devices)
    named = tuple(devices[i - 1] for i in carriers)
    cluster = Cluster(n, servers=(server(devices=named),)).settled()
    cluster.run(3_000)
    assert cluster.primary() == devices[0]
    return cluster, devices[0]


def change(cluster: Cluster, what: Change) -> None:
    request = f"c{cluster.now}"
    cluster.give(cluster.devices[0].id, Propose(request, what, None, 0))
    cluster.run_until(lambda: any(e.request == request for _, _, e in cluster.all_of(Outcome)))
    (outcome,) = [e for _, _, e in cluster.all_of(Outcome) if e.request == request]
    assert outcome.error is None


def name(cluster: Cluster, *numbers: int) -> None:
    """``vs edit --device``: these, and no others."""
    config = cluster.nodes[cluster.devices[0].id].configuration.in_force
    document = document_of(config, config.virtual_servers[RDP])
    names = tuple(f"d{i}" for i in numbers)
    change(cluster, PutVirtualServer(msgspec.structs.replace(document, devices=names)))


def lack(cluster: Cluster, *numbers: int) -> None:
    """Flows, which these devices are still being told."""
    for number in numbers:
        cluster.give(cluster.devices[number - 1].id, LACKS)
    cluster.run(300)


def handed_over_by(cluster: Cluster, since: int) -> list[DeviceId | None]:
    """Whom each new primary took over from; None where it was elected."""
    return [e.predecessor for _, _, e in cluster.all_of(Acquire, since)]


def test_a_drained_device_waits_until_another_one_has_all_flows() -> None:
    cluster, first = cluster_of(3)
    lack(cluster, 2, 3)
    change(cluster, DRAIN)
    cluster.run(2_000)
    assert cluster.primary() == first
    since = cluster.now
    cluster.give(cluster.devices[2].id, Behind(()))
    cluster.run(LOOK_NS / MILLISECOND + 250)
    assert cluster.primary() == cluster.devices[2].id
    assert handed_over_by(cluster, since) == [first]


def test_a_drained_device_waits_for_one_that_enters_them_now() -> None:
    cluster, first = cluster_of(3)
    cluster.flush_ns = SECOND
    change(cluster, DRAIN)
    cluster.run(PRESSING_NS / MILLISECOND + 300)
    assert cluster.primary() == first
    cluster.run(500)
    assert cluster.primary() not in (None, first)


def test_it_waits_for_a_while_only() -> None:
    for lacking in (False, True):
        cluster, first = cluster_of(3)
        cluster.flush_ns = NEVER_NS
        if lacking:
            lack(cluster, 2, 3)
        change(cluster, DRAIN)
        since = cluster.now
        cluster.run((PATIENCE_NS - 200 * MILLISECOND) / MILLISECOND)
        assert cluster.primary() == first
        cluster.run((PRESSING_NS + 600 * MILLISECOND) / MILLISECOND)
        assert cluster.primary() not in (None, first)
        assert handed_over_by(cluster, since) == [first]


def test_it_waits_no_longer_once_it_cannot_serve_or_is_about_to_end() -> None:
    for news in (NO_CARRIER, Stop()):
        cluster, first = cluster_of(3)
        cluster.flush_ns = NEVER_NS
        change(cluster, DRAIN)
        cluster.run(200)
        cluster.give(first, news)
        cluster.run(PRESSING_NS / MILLISECOND - 100)
        assert cluster.primary() == first
        cluster.run(300)
        assert cluster.primary() not in (None, first)


def test_one_that_found_nobody_when_it_looked_hands_over_all_the_same_when_it_ends() -> None:
    cluster, first = cluster_of(3)
    lack(cluster, 2, 3)
    change(cluster, DRAIN)
    cluster.run(400)
    assert cluster.primary() == first
    since = cluster.now
    cluster.give(first, Stop())
    cluster.run(700)
    assert handed_over_by(cluster, since) == [first]
    assert not [e for _, _, e in cluster.all_of(Event, since) if e.kind == "released"]


def test_a_drained_device_that_cannot_serve_says_so_and_waits_for_nobody() -> None:
    cluster, first = cluster_of(3)
    lack(cluster, 2, 3)
    change(cluster, DRAIN)
    cluster.give(first, NO_CARRIER)
    cluster.run(700)
    assert cluster.primary() not in (None, first)
    assert cluster.view(first).unfit == NO_CARRIER.unfit[0][1]


def test_a_primary_that_is_named_no_more_hands_over_to_one_that_has_all_flows() -> None:
    """None of the new ones has, at first: they are no voters yet."""
    cluster, first = cluster_of(6, 1, 2, 3)
    lack(cluster, 4, 5, 6)
    since = cluster.now
    name(cluster, 4, 5, 6)
    cluster.run(1_500)
    assert cluster.primary() == first
    cluster.give(cluster.devices[4].id, Behind(()))
    cluster.run_until(lambda: cluster.primary() == cluster.devices[4].id, 1_500)
    assert handed_over_by(cluster, since) == [first]
    cluster.run(6_000)
    assert cluster.primary() == cluster.devices[4].id


def test_it_hands_over_in_the_end_to_whom_the_coordinator_has_waited_for() -> None:
    cluster, first = cluster_of(4, 1, 2, 3)
    cluster.flush_ns = NEVER_NS
    lack(cluster, 2, 3, 4)
    since = cluster.now
    name(cluster, 2, 3, 4)
    cluster.run(8_000)
    assert cluster.primary() not in (None, first)
    assert handed_over_by(cluster, since) == [first]


def test_it_serves_on_while_nobody_who_is_named_can_be_a_voter() -> None:
    cluster = Cluster(5)
    a, _, w, x, _ = (each.id for each in cluster.devices)
    cluster = Cluster(5, servers=(server(devices=(a,), witnesses=(w, x)),)).settled()
    cluster.run(3_000)
    other = cluster.devices[1].id
    cluster.kill(other)
    since = cluster.now
    config = cluster.nodes[a].configuration.in_force
    document = document_of(config, config.virtual_servers[RDP])
    change(cluster, PutVirtualServer(msgspec.structs.replace(document, devices=("d2",))))
    cluster.run(20_000)
    assert cluster.primary() == a
    assert not [e for _, _, e in cluster.all_of(Event, since) if e.kind == "released"]
    cluster.restart(other)
    cluster.flush_ns = SECOND // 2
    cluster.run(5_000)
    assert cluster.primary() == other
    assert handed_over_by(cluster, since) == [a]


def test_a_candidate_that_nobody_elects_any_more_ends_at_once() -> None:
    cluster, first = cluster_of(3)
    second, third = (each.id for each in cluster.devices[1:])
    cluster.drop = lambda a, b, m: isinstance(m, Vote) and m.group == RDP
    cluster.kill(first)
    cluster.run_until(lambda: cluster.view(second).role is Role.CANDIDATE)
    cluster.kill(third)
    cluster.run(3_000)
    since = cluster.now
    cluster.give(second, Stop())
    cluster.run(100)
    assert [who for _, who, _ in cluster.all_of(Stopped, since)] == [second]
