"""Why a Virtual Server is where it is: each device's own word, put together."""

from __future__ import annotations

import asyncio

import pytest

from agent.inquiry import PATIENCE_S, Inquiries
from agent.quality import Quality
from protocol.changes import FreezeVirtualServer, PutVirtualServer
from protocol.document import VirtualServerDocument
from protocol.effects import Fitness, GatewayHealth, Promote, Propose
from protocol.explain import explain
from protocol.hearing import link_reports, matrix
from protocol.ids import DeviceId, GroupId
from protocol.insight import Explanation
from protocol.messages import Inquire, LinkReport, Message, Reason, Report
from protocol.timing import MILLISECOND
from protocol.wire import MAX_BULK, decode, encode
from tests.unit.cluster import RDP, Cluster, server
from tests.unit.pair import Pair
from tests.unit.test_moves import GATEWAYS


def explained(cluster: Cluster) -> Explanation:
    nodes = cluster.nodes
    me, node = next(iter(nodes.items()))
    config = node.configuration.in_force
    reports = {device: each.report(RDP, cluster.now) for device, each in nodes.items()}
    return explain(config, config.virtual_servers[RDP], me, reports)


def test_a_first_election_is_explained_by_its_votes() -> None:
    found = explained(Cluster().settled())
    assert found.primary == "d1"
    assert "because there had been no primary yet" in found.why
    assert found.election is not None
    assert "voted for it" in found.election.votes.values()
    assert 0 <= found.confirmed_ms <= 110
    assert 180 <= found.step_down_ms <= 290
    assert (found.voters, found.majority) == (3, 2)


def test_a_takeover_names_who_was_asked_and_what_they_said() -> None:
    cluster = Cluster().settled()
    cluster.kill(cluster.devices[0].id)
    cluster.run(1_000)
    found = explained(cluster)
    assert found.primary == "d2"
    assert "because a majority missed the primary" in found.why
    assert found.election is not None
    assert found.election.predecessor == "d1"
    assert found.election.answers["d3"] == "would vote"
    lacks = {device.name: device.lacks for device in found.devices}
    assert lacks == {"d1": "did not answer", "d2": "", "d3": ""}


def test_a_refusal_of_the_protocol_reaches_the_operator_unchanged() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    cluster.drop = lambda a, b, m: (a, b) == (first, second)
    cluster.run(1_000)
    report = cluster.nodes[second].report(RDP, cluster.now)
    assert report is not None
    evidence = cluster.nodes[second].groups[RDP].candidacy.evidence
    assert evidence.answers[third] is Reason.HEARS_PRIMARY


def test_a_hand_over_is_told_from_an_election() -> None:
    cluster = Cluster().settled()
    cluster.give(cluster.devices[0].id, Promote("p", "rdp", "d3"))
    cluster.run(500)
    found = explained(cluster)
    assert found.primary == "d3"
    assert "because the primary handed over to it" in found.why
    assert "d1 ranks better, but `preempt` is off: it stays" in found.moves


def test_each_device_says_what_it_lacks_and_what_it_promised() -> None:
    cluster = Cluster().settled()
    second = cluster.devices[1].id
    cluster.give(second, Fitness(((RDP, "interface eth0 is down"),)))
    cluster.run(200)
    found = explained(cluster)
    devices = {device.name: device for device in found.devices}
    assert devices["d2"].lacks == "interface eth0 is down"
    assert devices["d3"].promised_to == "d1"
    assert 190 <= devices["d3"].promise_ms <= 300
    assert devices["d3"].voted_for == "d1"
    assert "if d1 fails, d3 takes over after 325 ms" in found.moves
    assert [d.rank for d in found.devices] == [1, 2, 3]


def test_what_would_move_it_follows_the_rules_of_moves() -> None:
    cluster = Cluster(servers=(server(gateways=GATEWAYS, preempt=60),)).settled()
    first = cluster.devices[0].id
    cluster.give(first, Promote("p", "rdp", "d2"))
    cluster.run(500)
    assert "d1 ranks better: it gets it once fit for 1m 0s" in explained(cluster).moves
    cluster.give(cluster.devices[1].id, GatewayHealth(((RDP, "gw1"),)))
    cluster.run(500)
    assert "d1 sees 2 of 2 gateways, d2 1" in explained(cluster).moves


def test_a_primary_that_is_to_serve_no_more_is_said_so() -> None:
    cluster = Cluster(4).settled()
    cluster.flush_ns = 400 * MILLISECOND
    wish = VirtualServerDocument(name="rdp", vips=("10.0.0.1/24",), devices=("d2", "d3", "d4"))
    cluster.give(cluster.devices[3].id, Propose("c", PutVirtualServer(wish), None, 0))
    cluster.run(200)
    found = explained(cluster)
    assert found.primary == "d1"
    assert "d1 may carry it no more: d2 is to take it" in found.moves
    assert {device.name: device.lacks for device in found.devices}["d1"] == "only votes"


def test_a_frozen_service_without_its_primary_says_so() -> None:
    cluster = Cluster().settled()
    cluster.give(cluster.devices[1].id, Propose("c", FreezeVirtualServer("rdp", True), None, 0))
    cluster.run(500)
    assert explained(cluster).moves[0].startswith("frozen: nothing but `halbctl promote rdp`")
    cluster.kill(cluster.devices[0].id)
    cluster.run(2_000)
    assert explained(cluster).why.startswith("nobody is primary: it is frozen")
    # There is nobody who could hand it over.
    only = "frozen: nothing but its last primary, once it is back, until `halbctl vs unfreeze rdp`"
    assert explained(cluster).moves == (only,)


def test_a_primary_that_is_heard_but_did_not_answer_is_the_primary() -> None:
    cluster = Cluster().settled()
    second = cluster.devices[1].id
    config = cluster.nodes[second].configuration.in_force
    reports = {d: n.report(RDP, cluster.now) for d, n in cluster.nodes.items()}
    del reports[cluster.devices[0].id]
    found = explain(config, config.virtual_servers[RDP], second, reports)
    assert found.primary == "d1"
    assert found.why == (
        "d1 is primary, for d2, d3 hear it; it did not answer, so more is not known"
    )
    assert (found.confirmed_ms, found.moves) == (-1, ())


def test_a_minority_says_how_many_are_needed() -> None:
    cluster = Cluster().settled()
    for dead in cluster.devices[:2]:
        cluster.kill(dead.id)
    cluster.run(1_000)
    found = explained(cluster)
    assert found.why == "nobody is primary: 1 of 3 voters answered, 2 are needed"
    assert found.moves == ("it needs 1 more of its voters: d1, d2 did not answer",)


# Who hears whom


def test_a_matrix_has_each_direction_with_its_round_trips() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    cluster.drop = lambda a, b, m: (a, b) == (third, second)
    cluster.run(40_000)
    node = cluster.nodes[second]
    links = {
        device: link_reports(each.beats.contacts, {third: (0, 120)}, cluster.now)
        for device, each in cluster.nodes.items()
    }
    found = matrix(node.configuration.in_force, second, links)
    by_pair = {(link.hears, link.of): link for link in found.links}
    assert len(by_pair) == 6
    assert by_pair["d2", "d3"].heard_ms > 30_000
    assert by_pair["d3", "d2"].heard_ms < 1_000
    assert by_pair["d1", "d2"].round_trip_ms == (0.4, 0.4)
    assert by_pair["d1", "d3"].loss == (0.0, 12.0)
    infos = [p.info for p in cluster.nodes[first].view().peers if p.device == second]
    assert [info and info.unheard for info in infos] == [(third,)]


def test_a_connection_that_skips_numbers_is_lossy_and_its_twin_is_not() -> None:
    quality = Quality()
    for n in range(600):
        now = 0.05 * n
        quality.note(0, 1, n, now)
        if n % 10:
            quality.note(1, 1, n, now + 0.001)
    assert quality.loss()[0] == 0
    assert quality.loss()[1] in range(95, 106)
    assert quality.lossy


def test_a_copy_that_comes_late_counts_as_lost() -> None:
    quality = Quality()
    for n in range(100):
        quality.note(0, 1, n, 0.05 * n)
        if n >= 10:
            quality.note(1, 1, n - 10, 0.05 * n)
    assert quality.loss()[0] == 0
    assert quality.loss()[1] == 1000


def test_reports_travel_unchanged() -> None:
    cluster = Cluster().settled()
    for node in cluster.nodes.values():
        links = link_reports(node.beats.contacts, {}, cluster.now)
        report = Report("r", links, node.report(RDP, cluster.now))
        assert decode(encode(report), MAX_BULK) == report


def test_what_neither_connection_brought_is_lost_on_both() -> None:
    quality = Quality()
    for n in range(0, 200, 2):
        for connection in (0, 1):
            quality.note(connection, 1, n, 0.05 * n)
    assert all(lost and 480 <= lost <= 520 for lost in quality.loss())


def test_a_restarted_peer_begins_anew_and_little_tells_nothing() -> None:
    quality = Quality()
    assert quality.loss() == (None, None)
    for incarnation, first in ((1, 5_000), (2, 1)):
        for n in range(30):
            for connection in (0, 1):
                quality.note(connection, incarnation, first + n, 0.05 * n)
    assert quality.loss() == (0, 0)


@pytest.mark.parametrize("answers", [True, False])
def test_devices_that_do_not_answer_are_left_out(answers: bool) -> None:
    a, b = DeviceId("a" * 16), DeviceId("b" * 16)
    sent: list[tuple[DeviceId, Message]] = []

    async def report(request: str, group: GroupId | None) -> Report:
        return Report(request, (LinkReport(b, 1, (), (1, 1)),))

    async def ask() -> set[DeviceId]:
        inquiries = Inquiries(a, lambda to, m: sent.append((to, m)), report, lambda: ([b], True))
        asking = asyncio.create_task(inquiries.ask([a, b]))
        await asyncio.sleep(0)
        (to, question) = sent[0]
        assert (to, type(question)) == (b, Inquire)
        assert isinstance(question, Inquire)
        inquiries.on_message(DeviceId("c" * 16), await report(question.id, None))
        if answers:
            inquiries.on_message(b, await report(question.id, None))
        inquiries.on_message(b, await report("another", None))
        return set(await asking)

    assert asyncio.run(ask()) == ({a, b} if answers else {a})


def test_a_device_that_is_slow_to_answer_is_waited_for_as_long_as_is_asked() -> None:
    a, b = DeviceId("a" * 16), DeviceId("b" * 16)
    sent: list[Message] = []

    async def report(request: str, group: GroupId | None) -> Report:
        return Report(request, ())

    async def ask(patience: float, after: float) -> set[DeviceId]:
        inquiries = Inquiries(a, lambda to, m: sent.append(m), report, lambda: ([b], True))
        asking = asyncio.create_task(inquiries.ask([a, b], None, patience))
        await asyncio.wait([asking], timeout=after)
        question = sent.pop()
        assert isinstance(question, Inquire)
        inquiries.on_message(b, await report(question.id, None))
        return set(await asking)

    assert asyncio.run(ask(30.0, 2 * PATIENCE_S)) == {a, b}
    assert asyncio.run(ask(0.01, PATIENCE_S)) == {a}


def test_a_witness_is_called_one_and_sees_no_gateways() -> None:
    cluster = Cluster().settled()
    third = cluster.devices[2].id
    nodes = cluster.nodes
    me, node = next(iter(nodes.items()))
    config = node.configuration.in_force
    two = server(
        gateways=GATEWAYS, devices=tuple(d.id for d in cluster.devices[:2]), witnesses=(third,)
    )
    reports = {device: each.report(RDP, cluster.now) for device, each in nodes.items()}
    found = explain(config, two, me, reports).devices
    assert [d.role for d in found] == ["primary", "secondary", "witness"]
    assert (found[2].lacks, found[2].rank, found[2].gateways) == ("only votes", 0, -1)


def test_one_of_two_that_serves_alone_is_confirmed_by_itself() -> None:
    pair = Pair(arbiter=None, on_peer_loss="serve")
    pair.settled()
    pair.crash(pair.first)
    pair.run(1000)
    node = pair.nodes[pair.second]
    config = node.configuration.in_force
    reports = {pair.second: node.report(RDP, pair.now)}
    found = explain(config, config.virtual_servers[RDP], pair.second, reports)
    assert (found.primary, found.voters, found.majority) == ("d2", 2, 1)
    assert explained(Pair().settled()).majority == 2


def test_one_of_two_that_waits_says_for_what_and_no_election_is_said_to_be_under_way() -> None:
    pair = Pair()
    pair.settled()
    for device in (pair.first, pair.second):
        pair.crash(device)
    pair.restart(pair.second)
    pair.run(3_000)
    found = explained(pair)
    assert found.why == "nobody is primary: no device that may carry it can"
    (move,) = found.moves
    assert "d2 has not heard the other device since it started" in move
