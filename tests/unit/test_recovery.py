"""A majority that is lost for good, and what happens when it was not lost after all."""

from __future__ import annotations

import msgspec

from protocol.changes import (
    DeleteVirtualServer,
    PutVirtualServer,
    RecoverVoters,
    SetDevice,
    edit_for,
)
from protocol.config import Edit
from protocol.describe import describe
from protocol.document import VirtualServerDocument
from protocol.effects import Event, KeepConflict, Outcome, Recover
from protocol.errors import NoQuorum, Refused
from protocol.ids import SITE_GROUP, DeviceId
from protocol.messages import Answer, Ask
from protocol.objects import Assignment
from protocol.recovery import recovery_edit
from protocol.terms import TERM_LEAP, block, turn_of
from protocol.view import Role
from tests.unit.cluster import RDP, Cluster
from tests.unit.test_configuration_in_a_site import in_force, propose, web


def recover(cluster: Cluster, at: DeviceId, *names: str) -> Outcome:
    cluster.give(at, Recover("recover", names))

    def found() -> list[Outcome]:
        return [e for _, _, e in cluster.all_of(Outcome) if e.request == "recover"]

    cluster.run_until(lambda: bool(found()), 20_000)
    (only,) = found()
    return only


def without(cluster: Cluster, *lost: DeviceId) -> Cluster:
    for each in lost:
        cluster.kill(each)
    cluster.run(6000)
    return cluster


def test_survivors_of_a_lost_majority_serve_and_change_again() -> None:
    cluster = Cluster(5).settled()
    first, second, third, fourth, fifth = (d.id for d in cluster.devices)
    without(cluster, first, second, third)
    assert isinstance(propose(cluster, fourth, web(), "before").error, NoQuorum)
    outcome = recover(cluster, fourth)
    assert outcome.error is None
    cluster.run(3000)
    config = in_force(cluster, fifth)
    assert config.site is not None
    assert set(config.site.voters) == {fourth, fifth}
    assert config.revision.term > TERM_LEAP
    assert cluster.primary() in (fourth, fifth)
    assert cluster.view(fourth).term > TERM_LEAP
    assert propose(cluster, fifth, web(), "after").error is None


def test_a_single_survivor_goes_on_alone() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    without(cluster, first, second)
    assert recover(cluster, third).error is None
    cluster.run(2000)
    assert cluster.primary() == third
    assert propose(cluster, third, web()).error is None


def test_lost_devices_that_come_back_are_reset_and_become_voters_again() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    without(cluster, first, second)
    assert recover(cluster, third).error is None
    cluster.run(2000)
    cluster.restart(first)
    cluster.restart(second)
    cluster.run(8000)
    config = in_force(cluster, third)
    assert in_force(cluster, first) == in_force(cluster, second) == config
    assert config.site is not None
    assert set(config.site.voters) == set(config.assignments[RDP].voters) == {first, second, third}
    assert cluster.primary(SITE_GROUP) is not None
    assert cluster.primary() is not None


def test_a_majority_that_was_not_lost_gives_way_as_soon_as_it_hears_of_it() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    cluster.drop = lambda a, b, m: (a == third) != (b == third)
    cluster.run(6000)
    assert propose(cluster, first, web("10.0.0.9/24", "lost"), "meanwhile").error is None
    assert recover(cluster, third).error is None
    cluster.run(2000)
    primaries = [i for i in cluster.nodes if cluster.view(i).role is Role.PRIMARY]
    assert len(primaries) == 2
    cluster.drop = lambda a, b, m: False
    cluster.run(8000)
    assert cluster.primary() is not None
    assert cluster.primary(SITE_GROUP) is not None
    assert in_force(cluster, first) == in_force(cluster, second) == in_force(cluster, third)
    assert in_force(cluster, first).virtual_server_named("lost") is None
    told = {who: e.conflict.kind for _, who, e in cluster.all_of(KeepConflict)}
    assert told == {first: "replaced", second: "replaced"}
    texts = [e.text for _, _, e in cluster.all_of(Event) if e.kind == "config-dropped"]
    assert ["which `recover` elsewhere replaced" in text for text in texts] == [True, True]


def test_two_sides_that_recover_apart_are_one_site_as_soon_as_they_hear_each_other() -> None:
    cluster = Cluster(4).settled()
    first, second, third, fourth = (d.id for d in cluster.devices)
    cluster.drop = lambda a, b, m: a != b
    without(cluster, third, fourth)
    for device in (first, second):
        cluster.give(device, Recover(f"at {device}", ()))
        cluster.run(4000)
    assert [e.error for _, _, e in cluster.all_of(Outcome)] == [None, None]
    primaries = [i for i in (first, second) if cluster.view(i).role is Role.PRIMARY]
    assert len(primaries) == 2
    cluster.drop = lambda a, b, m: False
    cluster.run(8000)
    assert cluster.primary() is not None
    assert cluster.primary(SITE_GROUP) is not None
    assert in_force(cluster, first).records == in_force(cluster, second).records


def test_no_two_devices_force_anything_in_one_term() -> None:
    config = in_force(Cluster(4).settled(), DeviceId(f"{1:016x}"))
    forced: dict[int, str] = {}
    for newest in (3, 999, 1000, 2500, 1_000_999):
        for device in config.devices:
            for alone in (False, True):
                term = block(newest, turn_of(device, config, alone=alone))
                assert term >= newest + TERM_LEAP
                who = f"{device} {alone}"
                assert forced.setdefault(term // TERM_LEAP, who) == who


def test_two_sides_elect_in_other_terms_although_one_heard_of_the_other_in_a_refusal() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    without(cluster, second)
    cluster.drop = lambda a, b, m: a != b
    cluster.run(6000)
    assert recover(cluster, third).error is None
    cluster.drop = lambda a, b, m: a != b and not isinstance(m, Ask | Answer)
    cluster.run(2000)
    cluster.drop = lambda a, b, m: a != b
    cluster.run(6000)
    cluster.give(first, Recover("on the other side", ()))
    cluster.run(4000)
    configs = in_force(cluster, first), in_force(cluster, third)
    assert not {e.term for e in configs[0].epochs[2:]} & {e.term for e in configs[1].epochs[2:]}
    terms = {config.assignments[RDP].term // TERM_LEAP for config in configs}
    assert len(terms) == 2
    cluster.drop = lambda a, b, m: False
    cluster.run(8000)
    assert in_force(cluster, first).records == in_force(cluster, third).records
    assert cluster.primary() is not None


def test_a_device_that_forced_something_in_vain_is_taken_back_by_the_others() -> None:
    cluster = Cluster(5).settled()
    first, second, third, fourth, fifth = (d.id for d in cluster.devices)
    sides = ({first, second}, {third, fifth})
    cluster.drop = lambda a, b, m: not any({a, b} <= side for side in sides)
    without(cluster, fourth)
    assert recover(cluster, first).error is None
    cluster.kill(fifth)
    cluster.give(third, Recover("in vain", ()))
    cluster.run(20_000)
    assert cluster.primary(SITE_GROUP) in (first, second)
    cluster.drop = lambda a, b, m: False
    cluster.run(8000)
    assert in_force(cluster, third).records == in_force(cluster, first).records


def test_a_coordinator_gives_up_no_voters_of_its_own() -> None:
    cluster = Cluster(4).settled()
    first, _, third, fourth = (d.id for d in cluster.devices)
    config = in_force(cluster, first)
    change = RecoverVoters((third, fourth), ((RDP, 4),))
    made = edit_for(config, change, unix_s=0, new_uid=str)
    assert [type(value) for value in made.put] == [Assignment]


def test_a_recovery_that_another_takes_the_place_of_has_its_outcome_too() -> None:
    cluster = Cluster(5).settled()
    first, second, third, fourth, fifth = (d.id for d in cluster.devices)
    without(cluster, first, second, third)
    cluster.kill(fifth)
    cluster.give(fourth, Recover("with the other", ("d4", "d5")))
    cluster.run(100)
    assert not cluster.all_of(Outcome)
    cluster.run(6000)
    assert recover(cluster, fourth).error is None
    outcomes = {e.request: e.error for _, _, e in cluster.all_of(Outcome)}
    assert isinstance(outcomes["with the other"], Refused)


def test_nothing_is_forced_where_a_majority_lives() -> None:
    cluster = Cluster().settled()
    without(cluster, cluster.devices[2].id)
    outcome = recover(cluster, cluster.devices[0].id)
    assert isinstance(outcome.error, Refused)
    assert "nothing is lost" in outcome.error.message


def test_a_named_survivor_must_be_heard_and_this_device_among_them() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    without(cluster, first, second)
    outcome = recover(cluster, third, "d3", "d1")
    assert isinstance(outcome.error, Refused)
    assert "cannot be heard" in outcome.error.message


def test_a_change_in_a_site_of_two_devices_without_the_other_is_refused_with_what_helps() -> None:
    cluster = Cluster(2).settled()
    first, second = (d.id for d in cluster.devices)
    without(cluster, first)
    error = propose(cluster, second, web(), "refused").error
    assert isinstance(error, NoQuorum)
    assert "d1 cannot be heard; of two devices both must agree" in error.message
    assert all(word in error.remedy for word in ("Bring d1 back", "halbctl recover", "--local"))


def test_the_survivor_of_two_devices_recovers_and_takes_the_other_back() -> None:
    cluster = Cluster(2).settled()
    first, second = (d.id for d in cluster.devices)
    without(cluster, first)
    assert recover(cluster, second).error is None
    assert propose(cluster, second, SetDevice("d1", drained=True), "alone").error is None
    cluster.restart(first)
    cluster.run(8000)
    config = in_force(cluster, second)
    assert in_force(cluster, first) == config
    assert config.site is not None
    assert set(config.site.voters) == {first, second}


def test_a_refusal_names_all_who_are_missing() -> None:
    cluster = Cluster(3).settled()
    first, second, third = (d.id for d in cluster.devices)
    without(cluster, first, second)
    error = propose(cluster, third, web(), "refused").error
    assert error is not None
    assert "d1 and d2 cannot be heard" in str(error)
    assert "both must agree" not in str(error)


def test_new_voters_are_shown_with_the_name_of_what_they_vote_on() -> None:
    cluster = Cluster().settled()
    config = in_force(cluster, cluster.devices[0].id)
    made = recovery_edit(config, (cluster.devices[0].id,), TERM_LEAP, alone=True)
    name = config.virtual_servers[RDP].name
    assert f"~ assignment of {name} voters d1, d2, d3 -> d1" in describe(config, made)


def test_recover_frees_the_vips_of_a_deleted_virtual_server_whose_voters_are_lost() -> None:
    cluster = Cluster(5).settled()
    first, _, third, *_ = (d.id for d in cluster.devices)

    def serve(name: str, *devices: str) -> None:
        document = VirtualServerDocument(name=name, vips=("10.0.0.9/24",), devices=devices)
        assert propose(cluster, third, PutVirtualServer(document), name).error is None
        cluster.run(3000)

    def held() -> dict[str, tuple[str, ...]]:
        config = in_force(cluster, third)
        names = {uid: server.name for uid, server in config.virtual_servers.items()}
        mine = {v.uid: v for v in config.assignments.values() if v.uid != RDP}
        return {names.get(u, "gone"): (*v.vips, *v.releasing) for u, v in mine.items()}

    serve("old", "d1")
    without(cluster, first)
    assert propose(cluster, third, DeleteVirtualServer("old"), "delete").error is None
    serve("new", "d3", "d4", "d5")
    assert held() == {"gone": ("10.0.0.9",), "new": ()}
    assert recover(cluster, third).error is None
    cluster.run(3000)
    assert held() == {"new": ("10.0.0.9",)}
    cluster.restart(first)
    cluster.run(8000)
    assert in_force(cluster, first) == in_force(cluster, third)


def test_recover_settles_a_list_that_waits_for_a_device_that_is_gone() -> None:
    cluster = Cluster().settled()
    first, second, third = (d.id for d in cluster.devices)
    config = in_force(cluster, second)
    stuck = msgspec.structs.replace(
        config.assignments[RDP], number=7, voters=(second, third), former=(first, second),
        lone=True, formerly_lone=True,
    )  # fmt: skip
    config = config.edited(Edit(put=(stuck,)), 9)
    assert not recovery_edit(config, (first, second, third), TERM_LEAP, alone=True).put
    edit = recovery_edit(config, (second, third), TERM_LEAP, alone=True)
    (forced,) = edit.put
    assert describe(config, edit) == ("~ assignment of rdp voters before d1, d2 -> none",)
    assert isinstance(forced, Assignment)
    assert (forced.voters, forced.former, forced.lone) == ((second, third), (), True)
    assert not forced.formerly_lone
    (single,) = recovery_edit(config, (third,), TERM_LEAP, alone=True).put[1:]
    assert isinstance(single, Assignment)
    assert (single.voters, single.lone) == ((third,), False)
