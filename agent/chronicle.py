"""What happens, as it happens: remembered, logged, and told to every device that should know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from agent.clock import unix_ms
from agent.history import ALARMS, TOLD, VERIFICATION, History, entry_of
from agent.tidings import Tidings
from protocol.api import HistoryEntry
from protocol.config import Config
from protocol.effects import Event
from protocol.ids import DeviceId, GroupId
from protocol.messages import Moved

_log = logging.getLogger("halb")


class Chronicle:
    """Of one device. ``publish`` wakes those who watch."""

    def __init__(
        self, me: DeviceId, history: History, tidings: Tidings, publish: Callable[[], None]
    ) -> None:
        self._me = me
        self._history = history
        self._tidings = tidings
        self._publish = publish

    def happened(self, event: Event, config: Config, marks: Mapping[str, int]) -> None:
        """This device saw something; ``marks`` are further ones of its timeline."""
        entry = self._history.named(entry_of(event, config, self._me, unix_ms(), marks))
        self._remember(entry)
        if event.kind in TOLD:
            self._tidings.tell(entry)

    def heard(self, sender: DeviceId, told: Moved) -> None:
        """Another device tells what it saw."""
        self._remember(told.entry)
        self._tidings.pass_on(sender, told)

    def verified(self, group: GroupId, name: str, took_ns: int) -> None:
        """The neighbours have learnt of a takeover by this device, ``name``: its last phase."""
        entry = self._history.verified(group, name, took_ns / 1e6)
        if entry is not None and self._history.add(entry):
            self._tidings.tell(entry)
            self._publish()

    def _remember(self, entry: HistoryEntry) -> None:
        # What only completes a timeline was logged before.
        if self._history.add(entry) and VERIFICATION not in entry.timeline:
            about = f" of {entry.virtual_server}" if entry.virtual_server else ""
            term = f" (term {entry.term})" if entry.term else ""
            level = logging.WARNING if entry.kind in ALARMS else logging.INFO
            _log.log(level, "%s %s%s%s", entry.device, entry.text, about, term)
        self._publish()
