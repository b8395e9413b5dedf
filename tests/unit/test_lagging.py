"""Devices that are heard and do not get the newest configuration: found, and said."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.status import build_status
from protocol.api import Status
from protocol.changes import PutVirtualServer
from protocol.document import VirtualServerDocument
from protocol.effects import Propose
from protocol.hearsay import Copy
from protocol.ids import DeviceId, Revision
from protocol.lagging import LAGS_NS, Lagging
from protocol.messages import Append
from protocol.timing import MILLISECOND, SECOND
from tests.unit.cluster import Cluster
from tests.unit.test_status import REVISION, A, B, C, Site

OLD, NEW = Revision(2, 6), Revision(2, 7)


@pytest.fixture
def lagging() -> Lagging:
    return Lagging()


def test_a_device_that_stays_at_an_older_revision_lags(lagging: Lagging) -> None:
    for now in range(0, LAGS_NS + SECOND, SECOND):
        lagging.look({A: NEW, B: NEW, C: OLD}, now)
    assert lagging.devices(LAGS_NS) == ()
    assert lagging.devices(LAGS_NS + 1) == (C,)


def test_so_does_this_device_where_others_are_ahead(lagging: Lagging) -> None:
    lagging.look({A: OLD, B: NEW}, 0)
    assert lagging.devices(LAGS_NS + 1) == (A,)


def test_one_that_follows_changes_without_end_does_not(lagging: Lagging) -> None:
    for counter in range(200):
        now = counter * 100 * MILLISECOND
        lagging.look({A: Revision(2, counter + 1), C: Revision(2, counter)}, now)
        assert lagging.devices(now) == ()


def test_changes_without_end_do_not_hide_one_that_never_comes(lagging: Lagging) -> None:
    for counter in range(200):
        lagging.look({A: Revision(2, counter + 7), C: OLD}, counter * 100 * MILLISECOND)
    assert lagging.devices(20 * SECOND) == (C,)


def test_who_got_it_or_is_heard_no_more_lags_no_more(lagging: Lagging) -> None:
    lagging.look({A: NEW, B: OLD, C: OLD}, 0)
    lagging.look({A: NEW, B: NEW}, LAGS_NS + SECOND)
    assert lagging.devices(LAGS_NS + SECOND) == ()


def status_with_lagging(site: Site, *lagging: DeviceId) -> Status:
    view, config, facts = site.seen()
    return build_status(replace(view, lagging=lagging), config, facts)


def test_status_says_so_and_that_the_device_could_not_take_over() -> None:
    site = Site()
    site.tell(B, committed=REVISION)
    site.tell(C, committed=OLD)
    status = status_with_lagging(site, C)
    (rdp,) = status.virtual_servers
    assert rdp.state == "degraded"
    lags = "device c: has only revision 2.6 of the configuration, by what it told last"
    assert rdp.reasons == (lags,)
    assert [each.eligible for each in rdp.devices] == [True, True, False]
    (warning,) = status.warnings
    assert warning.startswith(f"{lags}, and does not get a newer one")
    assert "7481" in warning


def test_this_device_says_it_of_itself() -> None:
    (warning,) = status_with_lagging(Site(), A).warnings
    assert warning.startswith("device a: has only revision 2.7 of the configuration, and does not")


def test_a_virtual_server_that_did_not_change_since_can_be_taken_over() -> None:
    site = Site()
    site.tell(C, committed=Revision(2, 7))
    (rdp,) = status_with_lagging(site, C).virtual_servers
    assert (rdp.state, rdp.devices[2].eligible) == ("ok", True)


def test_devices_see_one_that_beats_reach_and_configuration_does_not() -> None:
    cluster = Cluster().settled()
    coordinator, _, last = (d.id for d in cluster.devices)

    def lagging() -> list[tuple[DeviceId, ...]]:
        return [node.view().lagging for node in cluster.nodes.values()]

    cluster.drop = lambda sender, to, message: to == last and isinstance(message, Append | Copy)
    document = VirtualServerDocument(name="rdp", vips=("10.0.0.1/24", "10.0.0.2/24"))
    change = PutVirtualServer(document, must="exist")
    cluster.give(coordinator, Propose("p", change, None, 0))
    cluster.run(LAGS_NS / MILLISECOND - 1000)
    assert lagging() == [(), (), ()], "it may still come"
    cluster.run(2000)
    assert lagging() == [(last,)] * 3, "it hears of itself, too, what the others have"
    cluster.drop = lambda sender, to, message: False
    cluster.run(5000)
    assert lagging() == [(), (), ()]
