"""A step's messages about many elections: few frames, in the order in which they were said."""

from __future__ import annotations

from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from agent.bundles import Bundles
from protocol.bundle import MAX_BUNDLE, Bundle, Frame, OfGroup
from protocol.ids import DeviceId, GroupId, Revision
from protocol.messages import URGENT, Ack, Answer, Ask, Message, Reason
from protocol.wire import HEADER_SIZE, MAX_URGENT, encode

A, B = DeviceId("a" * 16), DeviceId("b" * 16)
GROUP = GroupId("c" * 16)


def ask(term: int) -> Ask:
    return Ask(GROUP, term, 1, Revision(1, 1))


class Step:
    """What one step of the core says, and the frames that leave."""

    def __init__(self) -> None:
        self.frames: list[tuple[DeviceId, Frame]] = []
        self.bundles = Bundles(lambda to, message: self.frames.append((to, message)))

    def heard(self, by: DeviceId) -> list[Message]:
        found: list[Message] = []
        for to, frame in self.frames:
            if to == by:
                found += frame.messages if isinstance(frame, Bundle) else [frame]
        return found


def test_what_is_said_of_many_groups_goes_to_each_device_in_one_frame() -> None:
    step = Step()
    for term in range(100):
        step.bundles.send(A, ask(term))
        step.bundles.send(B, ask(term))
    assert not step.frames
    step.bundles.flush()
    asked = Bundle(tuple(map(ask, range(100))))
    assert step.frames == [(A, asked), (B, asked)]


def test_a_single_one_goes_as_it_is() -> None:
    step = Step()
    step.bundles.send(A, ask(1))
    step.bundles.flush()
    step.bundles.flush()
    assert step.frames == [(A, ask(1))]


@given(
    st.lists(
        st.tuples(st.sampled_from([A, B]), st.one_of(st.integers(0, 9), st.just(None))),
        max_size=3 * MAX_BUNDLE,
    )
)
def test_each_device_hears_everything_in_order(said: list[tuple[DeviceId, int | None]]) -> None:
    step = Step()
    told: dict[DeviceId, list[Message]] = {A: [], B: []}
    for to, term in said:
        message: Message = Ack(1, 2) if term is None else ask(term)
        told[to].append(message)
        step.bundles.send(to, message)
    step.bundles.flush()
    assert (step.heard(A), step.heard(B)) == (told[A], told[B])


def test_the_longest_bundle_fits_in_a_frame() -> None:
    longest = max(Reason, key=len)
    most = 2**63 - 1
    answer = Answer(GROUP, most, most, False, longest)
    frame = encode(Bundle((answer,) * MAX_BUNDLE))
    assert len(frame) + HEADER_SIZE < MAX_URGENT


def test_all_of_them_belong_to_the_lease_plane() -> None:
    assert set(URGENT) > set(get_args(OfGroup))
