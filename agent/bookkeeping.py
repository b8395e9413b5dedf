"""The accounts in the kernel: made, kept as the configuration wants them, read.

Trouble here is never a reason not to carry a Virtual Server.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

from agent import accounts
from agent.accounts import Accounts, accounts_of
from agent.closing import AT_ONCE, Gone, Held, closed, held_of
from agent.counters import Key, Ledger, Reading, range_of, service_of, vip_of
from agent.ipversion import SUFFIX
from agent.listing import blocks, difference
from agent.netlink import NetlinkError
from agent.nft import KernelRefused, Nft
from agent.ruleset import Desired

_log = logging.getLogger("halb.kernel")
_NAME = f"table inet {accounts.TABLE}"


class Books:
    """Table ``inet halb_count`` of this network namespace; used by one thread only."""

    def __init__(self, nft: Nft, *, flow_marks: bool = True) -> None:
        self._nft = nft
        self._flow_marks = flow_marks
        self._ledger = Ledger()
        self._accounts: Accounts | None = None
        """In force; None until the first pass, and after somebody altered the table."""
        self._shape: dict[str, str] = {}
        self._desired = Desired()
        self._held: Held | None = Held()
        """Of ``_desired``; None until it is asked for."""
        self._gone = Gone()
        self._refused = ""
        self._lacking = ""

    def prepare(self, lacking: str) -> None:
        """``lacking``: why this kernel cannot count at all; empty where it can."""
        self._lacking = lacking

    def inspect(self) -> tuple[str, ...]:
        """What somebody else changed since the newest pass, in words; the next pass mends it."""
        if self._accounts is None:
            return ()
        now = self._look()
        found = difference(_NAME, self._shape, now)
        if not now:
            # Also where that happened before it was looked at.
            found = (f"{_NAME} was deleted",)
            self._ledger.start_again()
        if found:
            self._accounts = None
        return found

    def reconcile(self, desired: Desired) -> bool:
        """Count for the listeners of ``desired``; whether anything had to be changed."""
        former, self._desired = self._desired, desired
        # Not for each gateway that goes up or down: it takes a while where there are thousands.
        if (desired.virtual_servers, desired.vips) != (former.virtual_servers, former.vips):
            self._held = None
        elif self._accounts is not None:
            return False
        wanted = accounts_of(desired)
        if wanted == self._accounts:
            return False
        try:
            self._follow(wanted)
        except (KernelRefused, NetlinkError) as error:
            before, self._refused, self._accounts = self._refused, error.message, None
            if before != error.message:
                _log.error("traffic is not counted: %s", error.message)
            return before != error.message
        self._refused = ""
        return True

    def _follow(self, wanted: Accounts) -> None:
        if self._lacking:
            raise KernelRefused(self._lacking)
        if self._accounts is None:
            self._make(wanted)
        present = self._accounts or self._present()
        if script := accounts.change(present, wanted, flow_marks=self._flow_marks):
            self._nft.run(script)
        self._accounts = wanted
        self._shape = self._look()

    def _make(self, wanted: Accounts) -> None:
        """The table, with the counters that stand there already."""
        script = accounts.table(wanted, flow_marks=self._flow_marks)
        try:
            self._nft.run(script)
        except KernelRefused:
            # A table of another release, whose sets have other types.
            self.remove()
            self._nft.run(script)

    def _present(self) -> Accounts:
        def present(name: str, text: Callable[[bytes], str]) -> frozenset[str]:
            return frozenset(
                text(key)
                for suffix in SUFFIX.values()
                for key, _ in self._ledger.dump(name + suffix)
            )

        # Another release counted what came, and not what left, or not what opens.
        ranges = (present(each + accounts.RANGED, range_of) for each in accounts.BY_GATEWAY)
        return Accounts(
            present("vips", vip_of),
            present("offered", service_of),
            present("offered_range", range_of),
            present(accounts.GATEWAYS, service_of),
            frozenset.intersection(*ranges),
        )

    def _look(self) -> dict[str, str]:
        return blocks(self._nft.list_table("inet", accounts.TABLE, elements=False) or "")

    def read(self) -> Reading:
        """Totals of all accounts, nothing where none were opened yet.

        Raises NetlinkError where the kernel refused them, or somebody removed them.
        """
        try:
            return self._ledger.read(self._of_now().has)
        except NetlinkError:
            if self._accounts is None and not self._refused:
                return self._ledger.totals()
            raise

    def number_accounts(self) -> int:
        """Count by their numbers for what was busy by the newest reading; how many transactions
        it took."""
        marks = self._ledger.unnumbered()[:AT_ONCE] if self._accounts is not None else []
        try:
            if marks:
                self._nft.run(accounts.numbered(marks))
        except KernelRefused as error:
            _log.warning("accounts cannot be numbered: %s", error.message)
            return 0
        return bool(marks)

    def close_accounts(self) -> int:
        """Close what nobody has any more, by the newest reading; how many transactions it took."""
        if self._accounts is None:
            return 0
        held = self._of_now()
        due = self._gone.due(held, self._ledger, time.monotonic())
        return sum(self._close(held, due[at : at + AT_ONCE]) for at in range(0, len(due), AT_ONCE))

    def _of_now(self) -> Held:
        held = self._held = self._held or held_of(self._desired)
        return held

    def _close(self, held: Held, due: Sequence[Key]) -> bool:
        rests = {key: held.remainder(key) for key in due}
        sure = self._ledger.is_sure
        keys = [key for key, rest in rests.items() if sure(key) and (rest is None or sure(rest))]
        remainders = {key: rest for key in keys if (rest := rests[key]) is not None}
        script = closed(keys, remainders, self._ledger)
        try:
            if script:
                self._nft.run(script)
        except KernelRefused as error:
            _log.warning("accounts cannot be closed: %s", error.message)
            return False
        for key in keys:
            self._ledger.close(key, remainders.get(key))
        return bool(script)

    def remove(self) -> None:
        """Leave nothing behind."""
        self._nft.run(f"add {_NAME}\ndelete {_NAME}\n")
        self._ledger.start_again()
        self._accounts = None
