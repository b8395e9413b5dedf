"""One device's copy of the configuration: what is stored, what is committed.

The coordinator's configuration replaces whatever a device has beyond the last
revision that both share, as in Raft; only a suffix that was never committed
can be lost so. A revision is in force once it is known to be committed. Others
may rest on that only once the disk knows it too: what a device has said to be in
force it never falls behind, whatever it hears after a restart.
"""

from __future__ import annotations

from protocol.config import Config, Epoch, remembered
from protocol.conflicts import dropped, forced
from protocol.effects import Apply, Event, KeepConflict, PersistConfig
from protocol.hearsay import Copy
from protocol.ids import SITE_GROUP, GroupId, Revision
from protocol.messages import Append, Stored
from protocol.objects import Record
from protocol.outbox import Outbox


class Replica:
    """The stored configuration, its uncommitted tail and what is durable of it."""

    def __init__(self, config: Config, committed: Revision, in_force: Config | None = None) -> None:
        """``in_force``: what was so before a restart, if known where ``config`` is newer."""
        self.stored = config
        """Newest configuration of this device, durable or about to be."""
        self.durable = config.revision
        self.committed = Config()
        """Newest configuration known to be committed, and therefore in force."""
        self._tail: list[Config] = []
        """Configurations after the committed one, oldest first."""
        self._writing: tuple[Revision, Revision] | None = None
        self._persisted = (config.revision, committed)
        if config.revision == committed:
            self.committed = config
        else:
            self._tail.append(config)
            if in_force is not None and in_force.revision == committed:
                self.committed = in_force

    def append(self, config: Config, out: Outbox) -> None:
        """Take ``config`` as the newest; it is acked once durable."""
        if not config.descends_from(self.stored.revision):
            conflict = dropped(self.stored, self.known_committed, config)
            if conflict is not None:
                out.do(KeepConflict(conflict))
            by_force = forced(config, self.known_committed)
            why = "which `recover` elsewhere replaced" if by_force else "which was never committed"
            text = f"dropped revision {self.stored.revision}, {why}"
            out.do(Event("config-dropped", SITE_GROUP, text))
            self._tail = [c for c in self._tail if config.descends_from(c.revision)]
        self.stored = config
        self._tail.append(config)
        self._write(out)

    @property
    def known_committed(self) -> Revision:
        """Newest revision known to be committed; after a restart newer than what is in force."""
        return max(self.committed.revision, self._persisted[1])

    @property
    def kept(self) -> Revision:
        """What is in force here, and cannot be undone by a restart."""
        return min(self.committed.revision, self._persisted[1])

    def on_stored(self, revision: Revision, out: Outbox) -> None:
        """The disk has ``revision``."""
        self._persisted, self._writing = self._writing or self._persisted, None
        if self.stored.descends_from(revision):
            self.durable = max(self.durable, revision)
        self._write(out)

    def on_disk_failed(self) -> None:
        """The write under way did not happen; the next :meth:`retry` repeats it."""
        self._writing = None

    def retry(self, out: Outbox) -> None:
        """Write again what the disk refused."""
        self._write(out)

    def _write(self, out: Outbox) -> None:
        """One write at a time; what came meanwhile is written in one go after it."""
        wanted = (self.stored.revision, self.known_committed)
        if self._writing is None and self._persisted != wanted:
            self._writing = wanted
            out.do(PersistConfig(self.stored, self.known_committed))

    def commit(self, revision: Revision, out: Outbox) -> bool:
        """Everything up to ``revision`` is committed; whether that is news."""
        ready = [c for c in self._tail if c.revision <= revision]
        if not ready or not self.stored.descends_from(revision):
            return False
        self.committed = ready[-1]
        self._tail = [c for c in self._tail if c.revision > revision]
        out.do(Apply(self.committed))
        self._write(out)
        return True

    def on_append(self, message: Append, out: Outbox) -> None:
        """The coordinator's records: build the newer configuration, or keep the old one.

        The caller answers with :meth:`report` in both cases; a coordinator
        that sees an unexpected revision sends what is missing, or all.
        """
        if message.to > self.stored.revision:
            base = self._at(message.base)
            config = None if base is None else built(base, message)
            if config is None:
                return
            self.append(config, out)
        if self.stored.descends_from(message.committed):
            self.commit(message.committed, out)

    def _at(self, revision: Revision | None) -> Config | None:
        """The configuration of this device at ``revision``, as far as it is still kept."""
        if revision is None:
            return Config()
        kept = (self.stored, *self._tail, self.committed)
        return next((c for c in kept if c.revision == revision), None)

    def take_committed(self, config: Config, out: Outbox) -> None:
        """Take a configuration that another device knows to be committed.

        It is put in force as it is. What this device has stored beyond it stays
        if it was made from it; otherwise it lost, as with a coordinator's word.
        One from before what this device had in force is of no use: others rest on that.
        """
        assert config.revision > self.committed.revision
        if config.revision < self.known_committed:
            return
        if not self.stored.descends_from(config.revision):
            if config.revision < self.stored.revision:
                return
            self.append(config, out)
        self._tail = [c for c in self._tail if c.revision > config.revision]
        self.committed = config
        out.do(Apply(config))
        self._write(out)

    def report(self, term: int, terms: tuple[tuple[GroupId, int], ...]) -> Stored:
        """What this device has, for the coordinator of ``term``, and its ``terms`` in groups."""
        return Stored(term, self.durable, self.kept, terms)


def built(base: Config, message: Append | Copy) -> Config | None:
    """``base`` with the records of ``message``; None if that is no Site's configuration."""
    records: dict[tuple[str, str], Record] = dict(base.records)
    for record in message.records:
        records[record.kind, record.key] = record
    epochs = tuple(Epoch(term, last) for term, last in message.epochs)
    config = Config(message.to, remembered(records, message.floor), epochs, message.floor)
    return None if config.site is None else config
