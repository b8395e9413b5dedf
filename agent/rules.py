"""The rules of the Virtual Servers in this kernel: changed as little as can be, all or nothing.

One that needs what this kernel lacks is refused before the library sees its rules.

One transaction changes all Virtual Servers or, where they are many, several that leave none of
them half changed (:mod:`agent.stages`). Where the kernel refuses one, those are found that it
refuses; they keep what they have, the others go on, and nobody waits for an operator who mends
one of them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from agent import direct, features, ruleset
from agent.distribution import SLOT_MAP
from agent.features import REFUSALS, Lack
from agent.listing import blocks, led
from agent.netlink import has_table
from agent.nft import KernelRefused, Nft, check
from agent.ruleset import Compiler, Desired, Ruleset, joined
from agent.sole import Sole
from agent.stages import stages
from agent.sticky import StickyMaps
from protocol.ids import GroupId


@dataclass(frozen=True)
class Done:
    """What became of a wish."""

    desired: Desired
    """What is in force now."""
    changed: tuple[str, ...] = ()
    """In words."""
    refused: Mapping[GroupId, str] = field(default_factory=dict)
    """Virtual Servers whose change the kernel refused, and its reason."""
    parts: frozenset[str] | None = frozenset()
    """Chains and maps from slots that were touched, as nft lists them (``chain NAME``); None
    where more than these changed."""
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


class Rules:
    """Tables ``inet halb`` and ``netdev halb_direct``; used by one thread only."""

    def __init__(self, nft: Nft, sticky: StickyMaps, interface: str) -> None:
        self._nft = nft
        self._sticky = sticky
        self._interface = interface
        self._compiler = Compiler()
        self._sole = Sole(time.monotonic)
        self._lacks: tuple[Lack, ...] = ()
        self.desired = Desired()
        """What is in force, as far as is known."""
        self._ruleset: Ruleset | None = None
        """None until the first wish, and where others changed it: all of it is loaded then."""
        self._settled = False
        """Whether that is what is desired, and no stage on the way there."""
        self._ways: direct.Ways | None = None
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

    def ways(self, desired: Desired) -> str:
        """A script that makes the table for `dsr` so."""
        return self._way_there(self._ways_for(desired))

    def _ways_for(self, desired: Desired) -> direct.Ways:
        some = tuple(vs for vs in desired.virtual_servers if vs.forwarding == "dsr")
        carried = ruleset.carried(Desired(some, desired.vips))
        return direct.compiled(carried, desired.down, self._interface)

    def _way_there(self, wanted: direct.Ways) -> str:
        # As after a start of the agent: counters and what connections are known stay.
        present = self._present_ways() if self._ways is None else self._ways.present
        return direct.load(wanted, self._interface, present)

    def _present_ways(self) -> direct.Present:
        listing = self._nft.list_table("netdev", direct.TABLE, elements=False)
        parts = frozenset(blocks(listing or ""))
        maps = (name for name in direct.ends_maps() if f"map {name}" in parts)
        ends = {
            name: led(self._nft.list_elements("map", "netdev", direct.TABLE, name)) for name in maps
        }
        return direct.Present(parts, ends)

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
        wanted = self._compiler.compile(desired)
        words, parts = self._difference(wanted)
        ways = self._ways_for(desired)
        if ways != self._ways and (self._ways is not None or ways.ends):
            words, parts = (*words, "ways of `dsr` changed"), None
        transactions, self._settled = 0, False
        for stage in (wanted,) if self._ruleset is None else stages(self._ruleset, wanted):
            script = self._script(stage)
            if stage is wanted and ways != self._ways:
                script += self._way_there(ways)
            if script:
                self._nft.run(script)
                transactions += 1
            self._ruleset = stage
        self.desired, self._ways, self._settled = desired, ways, True
        return Done(desired, words, {}, parts, transactions)

    def _script(self, wanted: Ruleset) -> str:
        """What leads there from what is in force."""
        if self._ruleset is None:
            return ruleset.load(wanted) + self._sticky.kept(wanted)
        return ruleset.change(self._ruleset, wanted)

    def _difference(self, wanted: Ruleset) -> tuple[tuple[str, ...], frozenset[str] | None]:
        """What has to change in words, and the parts that it touches."""
        old = self._ruleset
        if old is None:
            return (f"rules loaded for {len(wanted.chains)} listeners",), None
        if old == wanted:
            return (), frozenset()
        touched = {name for name, rules in wanted.chains.items() if old.chains.get(name) != rules}
        gone = old.chains.keys() - wanted.chains.keys()
        words = f"rules changed for {len(touched)} listeners, removed for {len(gone)}"
        sets = old.sets.keys() ^ wanted.sets.keys()
        beside = replace(old, chains=wanted.chains, sets=wanted.sets) != wanted
        if beside or not all(name.startswith(SLOT_MAP) for name in sets):
            return (words,), None
        chains = (f"chain {name}" for name in touched | gone)
        return (words,), frozenset((*chains, *(f"map {name}" for name in sets)))

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
                check(self._script(self._compiler.compile(wanted)) + self.ways(wanted))
            except KernelRefused as error:
                return error.message
            return ""

        return culprits(candidates, refuses)
