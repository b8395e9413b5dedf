"""One device's copy of the configuration: what a restart may undo, and what not."""

from __future__ import annotations

from protocol.config import Config, Edit
from protocol.effects import PersistConfig
from protocol.outbox import Outbox
from protocol.replica import Replica
from tests.unit.paris import site


def persisted(out: Outbox) -> list[PersistConfig]:
    return [effect for effect in out.take() if isinstance(effect, PersistConfig)]


def next_of(config: Config) -> Config:
    return config.edited(Edit(), config.revision.term)


def test_a_revision_is_reported_in_force_once_the_disk_knows_it() -> None:
    before = site()
    after = next_of(before)
    replica, out = Replica(before, before.revision), Outbox()
    replica.append(after, out)
    replica.on_stored(after.revision, out)
    replica.commit(after.revision, out)
    assert replica.committed == after
    assert replica.report(1, ()).committed == before.revision
    replica.on_stored(after.revision, out)
    assert replica.report(1, ()).committed == after.revision


def test_a_restart_leaves_the_mark_of_what_was_committed_on_disk() -> None:
    before = site()
    stored = next_of(before)
    replica, out = Replica(stored, before.revision), Outbox()
    replica.append(next_of(stored), out)
    assert [each.committed for each in persisted(out)] == [before.revision]


def test_after_a_restart_nothing_older_is_put_in_force() -> None:
    old = site()
    known = next_of(old)
    replica, out = Replica(next_of(known), known.revision), Outbox()
    replica.take_committed(old, out)
    assert replica.committed == Config()
    replica.take_committed(known, out)
    assert replica.committed == known


def test_what_was_in_force_is_so_again_where_newer_was_only_stored() -> None:
    known = site()
    replica = Replica(next_of(known), known.revision, known)
    assert (replica.committed, replica.kept) == (known, known.revision)
    replica = Replica(next_of(next_of(known)), next_of(known).revision, known)
    assert replica.committed == Config()
