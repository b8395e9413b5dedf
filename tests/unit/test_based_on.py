"""``--if-revision``: refused where people changed something meanwhile, and nowhere else."""

from __future__ import annotations

import pytest

from protocol.changes import Change, NoteAbsences, PutVirtualServer, SetGateway
from protocol.config import Config, Edit
from protocol.describe import describe
from protocol.document import parse_virtual_server
from protocol.errors import RevisionConflict
from protocol.ids import NO_REVISION, Revision
from protocol.objects import MAX_HANDLED, Handled
from protocol.settling import Absence
from tests.unit.cluster import Cluster
from tests.unit.paris import RDP, edit, server, site
from tests.unit.test_configuration_in_a_site import in_force, propose, web

DIRECT = {**RDP, "forwarding": "dsr"}
SITE = site(DIRECT)
FELL = NoteAbsences((Absence(server(SITE).uid, "gw2", 2),))


def asked(config: Config, change: Change) -> Config:
    """The configuration once ``change`` was carried out, as the coordinator does it."""
    made = edit(config, change)
    request = Handled(id=f"r{config.revision.n}", detail="\n".join(describe(config, made)))
    return config.edited(Edit((*made.put, request), made.delete), 1)


def set_weight(weight: int) -> SetGateway:
    return SetGateway(server(SITE).name, "gw1", weight=weight)


def test_what_primaries_note_of_gateways_is_no_change_for_who_has_read_before() -> None:
    config = asked(SITE, set_weight(3))
    read_at = config.revision
    noted = asked(config, FELL)
    assert server(noted) != server(config)
    assert noted.says_as_at(read_at)
    calm = parse_virtual_server({**DIRECT, "profile": "calm"})
    changed = asked(noted, PutVirtualServer(calm, if_revision=str(read_at)))
    assert not changed.says_as_at(read_at)
    assert changed.says_as_at(changed.revision)
    with pytest.raises(RevisionConflict, match=f"after {read_at}"):
        edit(changed, PutVirtualServer(calm, if_revision=str(read_at)))


def test_a_change_is_one_also_if_something_is_noted_after_it() -> None:
    read_at = SITE.revision
    assert not asked(asked(SITE, set_weight(3)), FELL).says_as_at(read_at)


def test_a_revision_of_another_history_or_of_none_is_not_this_one() -> None:
    config = asked(SITE, FELL)
    assert config.says_as_at(config.revision)
    after = Revision(config.revision.term, config.revision.n + 1)
    other = Revision(config.revision.term + 1, 1)
    assert not any(config.says_as_at(each) for each in (after, other))


def test_what_is_older_than_all_requests_that_are_remembered_may_have_changed() -> None:
    config = asked(SITE, set_weight(3))
    read_at = config.revision
    for weight in range(MAX_HANDLED - 1):
        config = asked(config, NoteAbsences((Absence(server(SITE).uid, "gw2", 1 + weight % 2),)))
    assert config.says_as_at(read_at)
    config = asked(config, FELL)
    assert not config.says_as_at(read_at)
    assert not config.says_as_at(NO_REVISION)


@pytest.mark.parametrize("based_on_its_own", [True, False])
def test_what_the_coordinator_adds_to_a_change_does_not_count(based_on_its_own: bool) -> None:
    cluster = Cluster().settled()
    first = cluster.devices[0].id
    before = in_force(cluster, first).revision
    made = propose(cluster, first, web())
    cluster.run(2_000)
    assert made.revision is not None
    assert in_force(cluster, first).revision > made.revision  # who votes on it
    held = made.revision if based_on_its_own else before
    next_one = propose(cluster, first, web("10.0.0.3/24", "ssh"), "s", held)
    assert isinstance(next_one.error, RevisionConflict) is not based_on_its_own
