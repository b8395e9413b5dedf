"""At quiescence: what has to hold once faults have ended; and of each lost connection, why."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import Any

from protocol.errors import HalbError
from tests.soak.holder import Lost, Tally
from tests.soak.operator import Operator
from tests.soak.stage import DIRECT, FLOW, SIX, TARGETS, Stage

SERVED_S = 40.0
"""Seconds after the last fault within which all devices agree, on a machine that is busy."""
SPEAKING_S = 60.0
"""...and within which TCP, that doubles its timer, has sent everything once more."""
YOUNG_S = {"echo": 1.0, "push": 1.0, "udp": 4.0}
"""Younger connections were perhaps not yet told to the secondaries, as docs/flows.md says."""
HALF_OPEN_S = 8.0
"""A client that only listens never learns that its gateway is gone: after so long it gives up."""
CALM_S = 4.0
"""Without faults for so long, agents have started, and told secondaries of every connection."""
FLUSHED_S = 3.0
"""Without rules a client of `routed` hears its gateway as a stranger, and resets it; TCP may notice
by a retransmission later."""
DIRECT_YOUNG_S = 3.0
"""With ``dsr`` secondaries are told every 2 s of connections whose slots moved..."""
DIRECT_AGAIN_S = 34.0
"""...and every 30 s again, which is when one hears of them that was away, or lost its rules."""
_DEATHS = ("gateway-dead", "gateway-unplugged")
_ENDS = (*_DEATHS, *(f"end-{what}" for what in _DEATHS))
FAULTS = ("crash", "hang", "kill", "stop", "unplug", "isolate", "cut", "cut-one-way", "flush")


class Judge:
    """Compares what is with what must be."""

    def __init__(self, stage: Stage, operator: Operator, *, sticky: bool) -> None:
        self._stage, self._operator, self._sticky = stage, operator, sticky
        self._judged = 0
        self._speaking_since = 0.0
        self.reasons: Counter[str] = Counter()
        """Why connections were lost, with their number."""
        self.settled: list[float] = []
        """Seconds until all devices agreed, after each round of faults."""

    def quiescent(self) -> None:
        """Wait until everything is as it must be, and judge what was lost meanwhile."""
        began = time.monotonic()
        why = self._wait(self._disagreement, SERVED_S)
        self.settled.append(time.monotonic() - began)
        if why:
            self._stage.journal.violation("agreement", f"after {SERVED_S:g} s: {why}")
        else:
            self._configuration()
        self._speaking_since = time.monotonic()
        why = self._wait(self._speechless, SPEAKING_S)
        if why:
            self._stage.journal.violation("stuck", f"after {SPEAKING_S:g} s more: {why}")
            self._stage.give_up_silent()
        self._losses()
        time.sleep(CALM_S + 0.5)

    def _wait(self, what_is_wrong: Any, timeout: float) -> str:
        """What is wrong after the time; empty as soon as nothing is."""
        deadline = time.monotonic() + timeout
        while True:
            try:
                why = str(what_is_wrong())
            except HalbError as error:
                why = str(error)
            if not why or time.monotonic() > deadline:
                return why
            time.sleep(0.3)

    def _disagreement(self) -> str:
        """Why the devices do not agree; empty if they do."""
        told = {name: self._stage.site.status(name) for name in self._stage.devices}
        for what in ("revision", "coordinator"):
            if len({str(status[what]) for status in told.values()}) > 1:
                return f"{what}: { {name: status[what] for name, status in told.items()} }"
        views: dict[str, dict[str, Any]] = {}
        for name, status in told.items():
            for device in status["devices"]:
                if device["state"] != "alive" or device["revision"] != status["revision"]:
                    return f"{name} sees {device['name']} {device['state']} {device['revision']}"
            for server in status["virtual_servers"]:
                if server["primary"] is None or server["state"] == "down":
                    return f"{name}: {server['name']} {server['state']} {server['reasons']}"
                views.setdefault(server["name"], {})[name] = (server["primary"], server["term"])
                unfit = [
                    d for d in server["devices"] if not d["eligible"] and d["role"] != "witness"
                ]
                if any("drained" not in d["reason"] for d in unfit):
                    return f"{name}: {server['name']}: {unfit}"
        for server, primaries in views.items():
            if len(set(primaries.values())) > 1 or len(primaries) < len(told):
                return f"{server}: {primaries}"
        return ""

    def _configuration(self) -> None:
        documents = {}
        for name in self._stage.devices:
            documents[name] = self._stage.site.ask(name, "export")["document"]
        first = documents[self._stage.devices[0]]
        if any(document != first for document in documents.values()):
            self._stage.journal.violation("configuration", f"documents differ: {documents}")
        for wrong in self._operator.wishes.lost(first):
            self._stage.journal.violation("lost change", wrong)
        self._operator.wishes.settle(first)

    def _speechless(self) -> str:
        tally = self._stage.tally
        if tally is None or time.monotonic() - tally.at > 3.0:
            return "the client says nothing"
        if why := unheard(self._stage, tally):
            doomed = all(self._why(each)[1] for each in tally.silent)
            if doomed and time.monotonic() - self._speaking_since > HALF_OPEN_S:
                self._speaking_since = time.monotonic()
                self._stage.give_up_silent()
        return why

    def _losses(self) -> None:
        losses = self._stage.losses[self._judged :]
        self._judged += len(losses)
        unexplained: dict[str, list[Lost]] = {}
        for lost in losses:
            why, explained = self._why(lost)
            self.reasons[why] += 1
            self._stage.journal.note("why", why, str(lost.port), str(lost))
            if not explained:
                about = TARGETS[lost.target]
                unexplained.setdefault(f"{about.server} {about.kind} {lost.reason}", []).append(
                    lost
                )
        for group, members in unexplained.items():
            text = f"{group}: {len(members)}: " + "; ".join(map(self._told, members[:6]))
            self._stage.journal.violation("lost connections", text, members[0].at)

    def _told(self, lost: Lost) -> str:
        return told(self._stage, lost)

    def _why(self, lost: Lost) -> tuple[str, bool]:
        """Why a connection was lost, and whether that is one of the documented reasons."""
        journal, target = self._stage.journal, TARGETS[lost.target]
        # One that only listens does not learn that it was reset; one that speaks does at once.
        born, ended = lost.born - 2.0, lost.last if lost.reason == "silent" else lost.at
        for what in _DEATHS:
            ends = list(journal.find(f"end-{what}", lost.gateway, born))
            begins = list(journal.find(what, lost.gateway, until=lost.at))
            if begins and (ends or begins[-1].at >= born):
                return "its gateway died", True
        name = lost.gateway + ("-6" if ":" in target.vip else "")
        if list(journal.find("removed", f"{target.server}/{name}", born, lost.at)):
            return "its gateway was removed", True
        flushed = list(journal.find("flush", since=ended - FLUSHED_S, until=ended + FLUSHED_S))
        if flushed and target.server == FLOW:
            return "a device had lost its rules, and clients saw their gateways", True
        if lost.last - lost.born < YOUNG_S[target.kind]:
            return "it was young", True
        forgets = target.server == DIRECT or (target.server == FLOW and not self._sticky)
        # Where nothing is remembered slots tell for a day only of what is older than the change.
        since = 0.0 if forgets else born
        moved = target.server == SIX or self._edited(target.server, since, lost.at)
        moved = moved or any(list(journal.find(what, "", since, lost.at)) for what in _ENDS)
        if target.server == DIRECT:
            told = self._told_of_direct(lost, ended)
        else:
            told = self._told_in(lost.born + YOUNG_S[target.kind], ended)
        if moved and not told:
            return "its slot moved, and faults kept secondaries from being told", True
        if len(self._stage.carriers) == 2 and target.kind == "push" and not told and not forgets:
            return "the only other device was away, or had just come back", True
        return f"unexplained{', its slot moved' if moved else ''}", False

    def _edited(self, server: str, since: float, until: float) -> bool:
        """Whether operators moved slots of a Virtual Server."""
        edits = (("apply", ""), ("slots", server), ("drained", server))
        find = self._stage.journal.find
        return any(list(find(what, subject, since, until)) for what, subject in edits)

    def _told_of_direct(self, lost: Lost, ended: float) -> bool:
        """Whether all devices were told of one with ``dsr``, and none forgot it since."""
        flushes = [entry.at for entry in self._stage.journal.find("flush", "", lost.born, ended)]
        young = lost.born + DIRECT_YOUNG_S
        if not flushes and self._told_in(lost.born - CALM_S, young, CALM_S + DIRECT_YOUNG_S):
            return True
        return self._told_in(max([lost.born, *flushes]), ended, DIRECT_AGAIN_S)

    def _told_in(self, since: float, until: float, calm_s: float = CALM_S) -> bool:
        """Whether there was a time without faults in which all secondaries were told."""
        calm_s -= 0.01  # times are rounded
        active: Counter[str] = Counter()
        calm = 0.0
        for entry in list(self._stage.journal.entries):
            if entry.kind != "act":
                continue
            calm_since = max(since, calm)
            if not active.total() and min(entry.at, until) - calm_since >= calm_s:
                return True
            if entry.what in FAULTS:
                active[entry.what + entry.subject] += 1
            elif entry.what.startswith("end-") and entry.what[4:] in FAULTS:
                active[entry.what[4:] + entry.subject] -= 1
                calm = entry.at
            elif entry.what == "healed":
                calm = entry.at
        return not active.total() and until - max(since, calm) >= calm_s


def told(stage: Stage, lost: Lost) -> str:
    """A lost connection as people read of it."""
    mac, _, hops = lost.reset_by.partition(" ")
    plan, began = stage.site.plan, stage.journal.began
    by = f", reset by {plan.owner(mac)} ({hops})" if mac else ""
    return (
        f"port {lost.port} by {lost.gateway}, born {lost.born - began:.2f}, last heard"
        f" {lost.last - began:.2f}, lost {lost.at - began:.2f}{by}"
    )


def unheard(stage: Stage, tally: Tally) -> str:
    """Which connections do not speak; empty if all do."""
    for index, target in enumerate(stage.targets):
        if tally.speaking[index] < target.count:
            silent = [each for each in tally.silent if each.target == index]
            which = "; ".join(told(stage, each) for each in silent[:6])
            return f"{target}: {tally.speaking[index]} speak, {len(silent)} do not: {which}"
    return ""


def evidence(stage: Stage) -> None:
    """Keep what the agents logged and know, before the lab is removed."""
    for name in stage.devices:
        folder = stage.journal.folder / name
        folder.mkdir(exist_ok=True)
        (folder / "agent.log").write_bytes(stage.site.service(name).log.read_bytes())
        for question in ("status", "history"):
            with suppress(HalbError):
                command = (question, "--output", "json")
                (folder / f"{question}.json").write_text(stage.site.halbctl(name, *command).output)
