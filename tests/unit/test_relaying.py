"""Questions and news that reach every device of a large Site over neighbours alone."""

from __future__ import annotations

import asyncio
from collections import Counter
from random import Random

import msgspec
import pytest

from agent import inquiry
from agent.inquiry import Inquiries
from agent.tidings import Tidings
from protocol.api import HistoryEntry
from protocol.ids import DeviceId, GroupId
from protocol.messages import Inquire, Message, Moved, Report
from protocol.relaying import MAX_HOPS, MAX_REMEMBERED, Relaying

DEVICES = 200
DEGREE = 8
ENTRY = HistoryEntry(
    at=1, kind="primary", virtual_server="rdp", uid=None, device="d1", reporter="d1", term=3,
    text="became primary",
)  # fmt: skip


def device(number: int) -> DeviceId:
    return DeviceId(f"{number:016x}")


class Net:
    """Devices, each connected to a few drawn at random, both ways; messages wait in a queue."""

    def __init__(self) -> None:
        random = Random(1)
        self.ids = [device(n) for n in range(DEVICES)]
        self.links: dict[DeviceId, list[DeviceId]] = {each: [] for each in self.ids}
        for each in self.ids:
            for other in random.sample(self.ids, DEGREE // 2):
                if other != each and other not in self.links[each]:
                    self.links[each].append(other)
                    self.links[other].append(each)
        self.sent: Counter[DeviceId] = Counter()
        self.dead: set[DeviceId] = set()
        self.histories: dict[DeviceId, list[HistoryEntry]] = {each: [] for each in self.ids}
        self.queue: list[tuple[DeviceId, DeviceId, Message]] = []
        self.inquiries = {each: self._inquiries(each) for each in self.ids}
        self.tidings = {each: self._tidings(each) for each in self.ids}

    def _send(self, sender: DeviceId, to: DeviceId, message: Message) -> None:
        assert to in self.links[sender], "only neighbours hear each other"
        self.sent[sender] += 1
        self.queue.append((sender, to, message))

    def _inquiries(self, me: DeviceId) -> Inquiries:
        async def report(request: str, group: GroupId | None) -> Report:
            return Report(request, ())

        return Inquiries(
            me, lambda to, m: self._send(me, to, m), report, lambda: (self.links[me], False)
        )

    def _tidings(self, me: DeviceId) -> Tidings:
        return Tidings(lambda to, m: self._send(me, to, m), lambda: (self.links[me], False))

    def deliver(self) -> None:
        while self.queue:
            sender, to, message = self.queue.pop(0)
            if to in self.dead:
                continue
            if isinstance(message, Inquire | Report):
                self.inquiries[to].on_message(sender, message)
            elif isinstance(message, Moved):
                self.histories[to].append(message.entry)
                self.tidings[to].pass_on(sender, message)

    def ask(self, *who: DeviceId) -> set[DeviceId]:
        async def asking() -> set[DeviceId]:
            question = asyncio.create_task(self.inquiries[self.ids[0]].ask(who))
            while not question.done():
                await asyncio.sleep(0)
                self.deliver()
            return set(await question)

        return asyncio.run(asking())


def test_a_question_reaches_all_and_all_answers_come_back() -> None:
    net = Net()
    assert net.ask(*net.ids) == set(net.ids)
    questions = max(len(links) for links in net.links.values())
    # Answers gather towards who asked, so its neighbours pass on most.
    assert net.sent[net.ids[0]] <= questions
    assert sorted(net.sent.values())[DEVICES // 2] <= questions + 2 * MAX_HOPS


def test_a_question_to_a_few_is_answered_by_them_alone() -> None:
    net = Net()
    wanted = net.ids[50:53]
    assert net.ask(*wanted) == {net.ids[0], *wanted}


def test_devices_that_are_dead_are_silent_and_hold_nobody_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inquiry, "FAR_PATIENCE_S", 0.01)
    net = Net()
    net.dead = set(net.ids[10:20])
    assert net.ask(*net.ids) == set(net.ids) - net.dead


def test_news_of_a_move_reaches_all_and_each_device_passes_it_on_once() -> None:
    net = Net()
    net.tidings[net.ids[5]].tell(ENTRY)
    net.deliver()
    assert all(ENTRY in net.histories[each] for each in net.ids if each != net.ids[5])
    assert all(net.sent[each] <= len(net.links[each]) for each in net.ids)


def test_the_same_news_with_more_of_its_timeline_is_passed_on_again() -> None:
    net = Net()
    net.tidings[net.ids[5]].tell(ENTRY)
    more = msgspec.structs.replace(ENTRY, timeline={"total": 300.0})
    net.tidings[net.ids[5]].tell(more)
    net.deliver()
    assert all(more in net.histories[each] for each in net.ids if each != net.ids[5])


def test_a_message_ends_though_nobody_remembers_it() -> None:
    net = Net()
    for tidings in net.tidings.values():
        tidings._relaying.first = lambda message, sender: True  # type: ignore[method-assign]
    a, b, *_ = net.ids
    net.links = {each: [] for each in net.ids} | {a: [b], b: [a]}
    net.tidings[a].tell(ENTRY)
    net.links[b] = [a, net.ids[2]]
    net.links[net.ids[2]] = [b]
    net.deliver()
    assert net.sent.total() <= 2**MAX_HOPS


def test_what_is_remembered_is_bounded() -> None:
    relaying = Relaying()
    for number in range(MAX_REMEMBERED + 1):
        assert relaying.first(number, None)
    assert relaying.first(0, None)
    assert not relaying.first(MAX_REMEMBERED, None)


def test_in_a_small_site_nothing_is_passed_on() -> None:
    a, c = device(0), device(2)
    sent: list[tuple[DeviceId, Message]] = []
    tidings = Tidings(lambda to, m: sent.append((to, m)), lambda: ([a, c], True))
    tidings.pass_on(a, Moved(ENTRY))
    assert sent == []
    tidings.tell(msgspec.structs.replace(ENTRY, reporter="b"))
    assert [to for to, _ in sent] == [a, c]
