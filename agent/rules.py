"""The rules of the Virtual Servers in this kernel: changed as little as can be, all or nothing.

One that needs what this kernel lacks is refused before the library sees its rules.

One transaction changes all Virtual Servers or, where they are many, several that leave none of
them half changed (:mod:`agent.stages`). Where the kernel refuses one, those are found that it
refuses; they keep what they have, the others go on, and nobody waits for an operator who mends
one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent import direct, features, ruleset, ways
from agent.counters import service_of, vip_of
from agent.distribution import SHARED_MAPS
from agent.features import REFUSALS, Lack
from agent.netlink import has_table
from agent.nft import KernelRefused, Nft, check
from agent.ruleset import Compiler, Desired, Ruleset, joined
from agent.sent import class_of, sent
from agent.shape import shape
from agent.sole import Sole
from agent.stages import stages
from agent.sticky import StickyMaps
from agent.ways import Ways
from protocol.ids import GroupId

Parts = frozenset[tuple[str, str]]
"""Parts of tables: name of the table, and the part as nft lists it (``chain NAME``)."""


@dataclass(frozen=True)
class Done:
    """What became of a wish."""

    desired: Desired
    """What is in force now."""
    changed: tuple[str, ...] = ()
    """In words."""
    refused: Mapping[GroupId, str] = field(default_factory=dict)
    """Virtual Servers whose change the kernel refused, and its reason."""
    parts: Parts | None = frozenset()
    """Chains and shared maps that were touched; None where more than these changed."""
    transactions: int = 0
    """How many it took."""


def culprits(
    candidates: Sequence[GroupId],
    refuses: Callable[[frozenset[GroupId]], str],
    beside: frozenset[GroupId] = frozenset(),
) -> dict[GroupId, str]:
    """Which of ``candidates`` are refused, and why; the others are accepted all together.

    ``refuses`` gives the reason why a set of them is refused, or nothing. Asks about twice
    the binary logarithm of their number for each that is refused.
    """
    reason = refuses(beside.union(candidates)) if candidates else ""
    if not reason:
        return {}
    if len(candidates) == 1:
        return {candidates[0]: reason}
    middle = len(candidates) // 2
    first, second = candidates[:middle], candidates[middle:]
    found = culprits(first, refuses, beside)
    accepted = beside.union(first) - found.keys()
    return found | culprits(second, refuses, accepted)


def _chains(old: Ruleset | Ways, new: Ruleset | Ways) -> tuple[set[str], set[str]]:
    """Names of chains that are new or other ones, and of those that go."""
    touched = {name for name, rules in new.chains.items() if old.chains.get(name) != rules}
    return touched, old.chains.keys() - new.chains.keys()


def _touched(
    table: str, old: Ruleset | Ways | ways.Present | None, new: Ruleset | Ways
) -> Parts | None:
    """The parts of a table that a change touches, None where it is not just chains."""
    if old == new:
        return frozenset()
    if old is None or isinstance(old, ways.Present):
        return None
    if replace(old, chains=new.chains, sets=new.sets) != new:
        return None
    sets = old.sets.keys() ^ new.sets.keys()
    if not all(name.startswith(SHARED_MAPS) for name in sets):
        return None
    touched, gone = _chains(old, new)
    chains = (f"chain {name}" for name in touched | gone)
    return frozenset((table, part) for part in (*chains, *(f"map {name}" for name in sets)))


class Rules:
    """Tables ``inet halb`` and ``netdev halb_direct``; used by one thread only."""

    def __init__(self, nft: Nft, sticky: StickyMaps, interface: str) -> None:
        self._nft = nft
        self._sticky = sticky
        self._interface = interface
        self._compiler = Compiler()
        self._direct = direct.Compiler(interface)
        self._sole = Sole(time.monotonic)
        self._lacks: tuple[Lack, ...] = ()
        self.desired = Desired()
        """What is in force, as far as is known."""
        self._ruleset: Ruleset | None = None
        """None until the first wish, and where others changed it: all of it is loaded then."""
        self._settled = False
        """Whether that is what is desired, and no stage on the way there."""
        self._ways: Ways | None = None
        """The table for `dsr` that is in force; None where that is not known."""

    def begin(self, lacks: Sequence[Lack]) -> None:
        """Make table ``inet halb`` where there is none, without a Virtual Server."""
        self._lacks = tuple(lacks)
        self._compiler = Compiler(quiet=bool(features.why_off(REFUSALS, lacks)))
        if not has_table(ruleset.TABLE):
            self._nft.run(ruleset.load(Ruleset()))
            self._ruleset = Ruleset()

    def forget_rules(self) -> None:
        """Somebody changed table ``inet halb``."""
        self._ruleset, self._settled = None, False

    def forget_ways(self) -> None:
        """Somebody changed the table for `dsr`, or the interface that it hangs on."""
        self._ways = None

    def _led(self) -> Ways | ways.Present:
        """The table for `dsr` that is in force, or, if that is not known, what is there."""
        if self._ways is None:
            present = self._present_ways()
            if present.parts:
                return present
            self._ways = Ways()
        return self._ways

    def _present_ways(self) -> ways.Present:
        parts = frozenset(shape("netdev", ways.TABLE))
        accounts: dict[str, dict[str, str]] = {}
        for each in sent() if parts else ():
            key = f"{service_of(each.service)} . {class_of(each.seat)}"
            accounts.setdefault(each.name, {})[key] = vip_of(each.gateway) if each.gateway else ""
        return ways.Present(parts, accounts)

    def want(self, desired: Desired) -> Done:
        """Make the kernel so, but for Virtual Servers that it refuses.

        Those stay as they are, but for the health of their gateways. Raises
        :class:`KernelRefused` where none of them is to blame.
        """
        servers = desired.virtual_servers
        unmet = {vs.uid: why for vs in servers if (why := features.unmet(vs, self._lacks))}
        if unmet:
            kept = self._as_they_are(desired, unmet)
            parts = (desired.alone() | kept).items()
            desired = joined(part for uid, part in parts if uid in kept or uid not in unmet)
        if sole := self._sole.among(self.desired, desired):
            desired = replace(desired, sole=sole)
        try:
            return replace(self._apply(desired), refused=unmet)
        except KernelRefused:
            admitted, refused = self._admit(desired)
            if not refused:
                raise
        return replace(self._apply(admitted), refused=unmet | refused)

    def _apply(self, desired: Desired) -> Done:
        if self._settled and self._ways is not None and desired == self.desired:
            return Done(desired)
        rules, direct_ways = self._compiler.compile(desired), self._direct.compile(desired)
        now = self._led()
        words, parts = self._difference(rules, now, direct_ways)
        transactions, self._settled = 0, False
        for script, stage, ways_stage in self._steps(rules, now, direct_ways):
            if script:
                self._nft.run(script)
                transactions += 1
            self._ruleset, self._ways = stage, ways_stage
        self._sticky.forget_others({*rules.sets, *direct_ways.sets})
        self.desired, self._settled = desired, True
        return Done(desired, words, {}, parts, transactions)

    def _steps(
        self, rules: Ruleset, now: Ways | ways.Present, direct_ways: Ways
    ) -> Iterator[tuple[str, Ruleset | None, Ways | None]]:
        """Scripts that lead to both tables, each with what is in force then: the last step, of
        few changes the only one, is one of both."""
        old = self._ruleset
        for stage in () if old is None else stages(old, rules):
            if old is not None and stage is not rules:
                yield ruleset.change(old, stage), stage, self._ways
                old = stage
        for way in stages(now, direct_ways) if isinstance(now, Ways) else ():
            if way is not direct_ways:
                yield self._way_there(now, way), old, way
                now = way
        yield self._script(old, rules) + self._way_there(now, direct_ways), rules, direct_ways

    def _script(self, now: Ruleset | None, wanted: Ruleset) -> str:
        """What leads there from what is in force."""
        if now is None:
            return ruleset.load(wanted) + self._sticky.put_back(wanted.sets, None)
        return ruleset.change(now, wanted) + self._sticky.put_back(wanted.sets, now.sets)

    def _way_there(self, now: Ways | ways.Present, wanted: Ways) -> str:
        """The same of the table for `dsr`; counters and what connections are known stay."""
        if isinstance(now, ways.Present):
            there = {part.removeprefix("map ") for part in now.parts}
            script = ways.load(wanted, self._interface, now)
        else:
            there, script = {*now.sets}, ways.change(now, wanted, self._interface)
        return script + self._sticky.put_back(wanted.sets, there)

    def _difference(
        self, rules: Ruleset, now: Ways | ways.Present, direct_ways: Ways
    ) -> tuple[tuple[str, ...], Parts | None]:
        """What has to change in words, and the parts that it touches."""
        old = self._ruleset
        words: tuple[str, ...] = ()
        if old is None:
            words = (f"rules loaded for {len(rules.chains)} listeners",)
        elif old != rules:
            touched, gone = _chains(old, rules)
            words = (f"rules changed for {len(touched)} listeners, removed for {len(gone)}",)
        if direct_ways != now:
            words = (*words, "ways of `dsr` changed")
        ours, led = _touched(ruleset.TABLE, old, rules), _touched(ways.TABLE, now, direct_ways)
        return words, None if ours is None or led is None else ours | led

    def _as_they_are(self, desired: Desired, some: Collection[GroupId]) -> dict[GroupId, Desired]:
        """Those of ``some`` that are in force, with their gateways' health of now."""
        new, old = desired.alone(), self.desired.alone()
        return {
            uid: replace(new[uid], virtual_servers=old[uid].virtual_servers, vips=old[uid].vips)
            for uid in some
            if uid in old
        }

    def _admit(self, desired: Desired) -> tuple[Desired, dict[GroupId, str]]:
        """What of ``desired`` the kernel takes, and why it refuses the rest."""
        new, old = desired.alone(), self.desired.alone()
        held = {uid: old[uid] for uid in new if uid in old}
        changed = [uid for uid in new if self._ruleset is None or new[uid] != old.get(uid)]
        refused = self._culprits(changed, new, held)
        kept = {uid: part for uid, part in held.items() if uid in refused}
        # What stays has its gateways' health of now, if the kernel takes that.
        health = self._as_they_are(desired, kept)
        rest = {uid: part for uid, part in new.items() if uid not in refused}
        ill = self._culprits(list(health), rest | health, rest | kept)
        chosen = rest | kept | {uid: part for uid, part in health.items() if uid not in ill}
        return joined(chosen[uid] for uid in new if uid in chosen), refused

    def _culprits(
        self,
        candidates: Sequence[GroupId],
        new: Mapping[GroupId, Desired],
        old: Mapping[GroupId, Desired],
    ) -> dict[GroupId, str]:
        """Which ``candidates`` the kernel refuses in their ``new`` form, and why."""
        others = new.keys() - set(candidates)

        def refuses(some: frozenset[GroupId]) -> str:
            parts = {uid: new[uid] for uid in new if uid in some or uid in others}
            wanted = joined({**old, **parts}[uid] for uid in new if uid in parts or uid in old)
            try:
                way_there = self._way_there(self._led(), self._direct.compile(wanted))
                check(self._script(self._ruleset, self._compiler.compile(wanted)) + way_there)
            except KernelRefused as error:
                return error.message
            return ""

        return culprits(candidates, refuses)
