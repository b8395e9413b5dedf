"""Joining over real sockets: the right token gets in, all others get the reason."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest
import zmq

from agent import guests, joining, sockets
from agent.joining import JoinServer, NotMember, ask_to_join
from agent.keys import KeyPair
from agent.sockets import Socket
from protocol.config import Config, Edit
from protocol.errors import InvalidInput, MalformedMessage, NoQuorum, Refused, Unreachable
from protocol.ids import DeviceId
from protocol.joining import (
    JoinReply,
    JoinRequest,
    config_of,
    decode_join_reply,
    decode_join_request,
    elsewhere,
    encode_join_request,
    welcome,
)
from protocol.objects import Device, SiteRecord
from protocol.token import JoinToken
from tests.kernel.namespaces import Inside, one_host
from tests.kernel.transports import until

pytestmark = pytest.mark.kernel

IP = "10.77.0.11"
ESTABLISHED = "01"
"""As ``/proc/net/tcp6`` writes it."""
CONFIG = Config().edited(Edit(put=(SiteRecord(id="5" * 16, name="paris", voters=()),)), 1)
_ports = count(7480, 10)


@pytest.fixture(scope="module")
def host() -> Iterator[Inside]:
    with one_host() as inside:
        yield inside


class Member:
    """A device that lets newcomers in who know the secret."""

    def __init__(self, answer: Callable[[JoinRequest], Awaitable[JoinReply]] | None = None) -> None:
        self.keys = sockets.new_key_pair()
        self.address = f"{IP}:{next(_ports)}"
        self.asked: list[JoinRequest] = []
        self.server = JoinServer((self.address,), self.keys, answer or self.answer)

    async def answer(self, request: JoinRequest) -> JoinReply:
        self.asked.append(request)
        if request.secret != "right":
            raise Refused("the token's secret is wrong", "Make a new token.")
        return welcome(CONFIG)

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2]) + joining.PORT_OFFSET


def token(*members: Member, key: str | None = None) -> JoinToken:
    named = tuple((key or m.keys.public, (m.address,)) for m in members)
    return JoinToken("5" * 16, "paris", "7" * 16, "f" * 32, named, 2**31)


def request(secret: str = "right", keys: KeyPair | None = None) -> JoinRequest:
    public = (keys or sockets.new_key_pair()).public
    return JoinRequest("7" * 16, secret, Device(
        id=DeviceId("b" * 16), name="b", public_key=public, addresses=(f"{IP}:9",), joined=1,
    ))  # fmt: skip


async def ask(asked: JoinToken, seconds: float = 8.0, secret: str = "right") -> JoinReply:
    keys = sockets.new_key_pair()
    return await ask_to_join(asked, request(secret, keys), keys, seconds)


def run(host: Inside, scenario: Callable[[], Awaitable[None]], *members: Member) -> None:
    async def main() -> None:
        try:
            for member in members:
                await member.server.start()
            await scenario()
        finally:
            for member in members:
                await member.server.close()

    host.call(lambda: asyncio.run(main()))


def test_the_right_token_brings_the_configuration(host: Inside) -> None:
    member = Member()

    async def scenario() -> None:
        assert config_of(await ask(token(member))) == CONFIG
        assert member.asked[0].device.name == "b"
        assert member.server.counters() == {"admitted": 1}

    run(host, scenario, member)


def test_a_refusal_arrives_with_its_reason_and_is_final(host: Inside) -> None:
    member, other = Member(), Member()

    async def scenario() -> None:
        with pytest.raises(Refused, match="the token's secret is wrong") as caught:
            await ask(token(member, other), secret="wrong")
        assert caught.value.remedy == "Make a new token."
        assert not other.asked

    run(host, scenario, member, other)


def test_the_next_member_is_asked_where_one_is_down_or_cut_off(host: Inside) -> None:
    down, alive = Member(), Member()

    async def no_quorum(request: JoinRequest) -> JoinReply:
        raise NoQuorum("no coordinator can be reached")

    cut_off = Member(no_quorum)

    async def scenario() -> None:
        assert config_of(await ask(token(down, cut_off, alive))) == CONFIG

    run(host, scenario, cut_off, alive)


def test_the_next_member_is_asked_where_one_has_left_the_site(host: Inside) -> None:
    async def has_left(request: JoinRequest) -> JoinReply:
        return elsewhere("a")

    gone, alive = Member(has_left), Member()

    async def scenario() -> None:
        assert config_of(await ask(token(gone, alive))) == CONFIG
        with pytest.raises(NotMember, match="device a does not belong to the Site of the token"):
            await ask(token(gone))

    run(host, scenario, gone, alive)


def test_why_members_say_no_is_told_although_another_has_left_and_time_runs_out(
    host: Inside,
) -> None:
    """As where one of two that left by force joins again: its token names itself, too."""

    async def left(_: JoinRequest) -> JoinReply:
        return elsewhere("b")

    async def slow(_: JoinRequest) -> JoinReply:
        await asyncio.sleep(0.8)
        raise NoQuorum("no coordinator can be reached")

    gone, stays = Member(left), Member(slow)

    async def scenario() -> None:
        with pytest.raises(NoQuorum, match="no coordinator can be reached"):
            await ask(token(gone, stays), seconds=2.0)

    run(host, scenario, gone, stays)


def test_with_nobody_there_each_address_is_named(host: Inside) -> None:
    async def scenario() -> None:
        absent = Member()
        with pytest.raises(Unreachable, match=f"{IP} port {absent.port}") as caught:
            await ask(token(absent), seconds=1.0)
        assert "7480-7482" in caught.value.remedy

    run(host, scenario)


def test_a_member_that_starts_late_is_found(host: Inside) -> None:
    member = Member()

    async def scenario() -> None:
        asking = asyncio.create_task(ask(token(member)))
        await asyncio.sleep(0.3)
        await member.server.start()
        assert config_of(await asking) == CONFIG

    async def with_close() -> None:
        try:
            await scenario()
        finally:
            await member.server.close()

    run(host, with_close)


def test_a_member_with_another_key_than_the_token_names_learns_nothing(host: Inside) -> None:
    member = Member()

    async def scenario() -> None:
        with pytest.raises(NotMember, match="does not have the key") as caught:
            await ask(token(member, key=sockets.new_key_pair().public), seconds=300.0)
        assert "another Site" in caught.value.remedy
        assert not member.asked

    run(host, scenario, member)


def test_a_member_with_another_key_does_not_hide_one_that_comes_back(host: Inside) -> None:
    stranger, member = Member(), Member()
    both = JoinToken("5" * 16, "paris", "7" * 16, "f" * 32, (
        (sockets.new_key_pair().public, (stranger.address,)),
        (member.keys.public, (member.address,)),
    ), 2**31)  # fmt: skip

    async def scenario() -> None:
        asking = asyncio.create_task(ask(both, seconds=60.0))
        await asyncio.sleep(0.3)
        assert not asking.done()
        await member.server.start()
        assert config_of(await asking) == CONFIG
        await member.server.close()

    run(host, scenario, stranger)


def test_a_member_that_hangs_is_not_taken_for_another(host: Inside) -> None:
    member = Member()

    async def scenario() -> None:
        with (
            socket.create_server((IP, member.port)),
            pytest.raises(Unreachable, match="accepts connections but does not answer"),
        ):
            await ask(token(member), seconds=1.5)

    run(host, scenario)


def test_garbage_is_answered_or_dropped_and_the_next_request_served(host: Inside) -> None:
    member = Member()

    async def scenario() -> None:
        _, writer = await asyncio.open_connection(IP, member.port)
        writer.write(os.urandom(4096))
        await writer.drain()
        writer.close()
        context, got = sockets.new_context(), asyncio.Queue[list[bytes]]()
        options = sockets.calling(sockets.new_key_pair(), member.keys.public)
        client = await Socket.open(context, sockets.DEALER, options, got.put_nowait)
        client.connect(sockets.tcp(IP, member.port))
        client.send((b"\xc1garbage",))
        reply = decode_join_reply((await asyncio.wait_for(got.get(), 5))[0])
        assert reply.failure
        client.send((b"two", b"parts"))
        client.send((encode_join_request(request()),))
        assert config_of(decode_join_reply((await asyncio.wait_for(got.get(), 5))[0])) == CONFIG
        assert member.server.counters()["malformed"] == 2
        client.send((bytes(100_000),))
        await client.close()
        context.destroy()
        assert config_of(await ask(token(member))) == CONFIG

    run(host, scenario, member)


def test_requests_are_bounded_in_rate(host: Inside) -> None:
    member = Member()

    async def scenario() -> None:
        context = sockets.new_context()
        options = sockets.calling(sockets.new_key_pair(), member.keys.public)
        client = await Socket.open(context, sockets.DEALER, options)
        client.connect(sockets.tcp(IP, member.port))
        async with asyncio.timeout(5):
            while not member.server.counters().get("throttled"):
                client.send((encode_join_request(request("wrong")),))
                await asyncio.sleep(0.001)
        assert len(member.asked) < 60
        await client.close()
        context.destroy()

    run(host, scenario, member)


@contextmanager
def silent_guests(member: Member, number: int) -> Iterator[None]:
    """So many who show a key of their own, and then say nothing."""
    context = zmq.Context()
    crowd = context.socket(zmq.ROUTER)
    crowd.linger = 0
    crowd.curve_publickey, crowd.curve_secretkey = zmq.curve_keypair()
    crowd.curve_serverkey = member.keys.public.encode()
    try:
        for _ in range(number):
            crowd.connect(sockets.tcp(IP, member.port))
        yield
    finally:
        crowd.close()
        context.destroy()


def inside(member: Member) -> set[str]:
    """The other ends of the TCP connections that a member has accepted, by sockets of IPv6."""
    lines = Path("/proc/thread-self/net/tcp6").read_text().splitlines()[1:]
    here = f":{member.port:04X}"
    found = (line.split()[1:4] for line in lines)
    return {far for near, far, how in found if near.endswith(here) and how == ESTABLISHED}


def test_however_many_connect_and_say_nothing_few_stay_and_newcomers_get_in(
    host: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "MOST", 20)
    monkeypatch.setattr(guests, "LAST_WORD_S", 2.0)
    member = Member()

    async def scenario() -> None:
        with silent_guests(member, 100):
            await until(lambda: len(inside(member)) > 20, 5)
            knocking = inside(member)
            await asyncio.sleep(1.0)  # twice as long as who is not let in may go on trying
            stayed = knocking & inside(member)
            assert len(stayed) <= 20
            await until(lambda: not stayed & inside(member), 5)
        assert config_of(await ask(token(member))) == CONFIG

    run(host, scenario, member)


def test_a_connection_that_says_nothing_is_ended_after_a_while(
    host: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "STAY_S", 0.5)
    member = Member()

    async def scenario() -> None:
        with silent_guests(member, 3):
            await until(lambda: len(inside(member)) == 3, 5)
            before = inside(member)
            await until(lambda: not before & inside(member), 5)
        assert config_of(await ask(token(member))) == CONFIG

    run(host, scenario, member)


def test_who_is_being_answered_is_not_sent_away(
    host: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guests, "STAY_S", 0.1)

    async def slow(request: JoinRequest) -> JoinReply:
        await asyncio.sleep(1.0)
        return welcome(CONFIG)

    member = Member(slow)

    async def scenario() -> None:
        assert config_of(await ask(token(member), seconds=2.5)) == CONFIG

    run(host, scenario, member)


def test_the_port_in_use_is_named(host: Inside) -> None:
    member = Member()

    async def scenario() -> None:
        with pytest.raises(InvalidInput, match=f"port {member.port}"):
            await JoinServer((member.address,), member.keys, member.answer).start()

    run(host, scenario, member)


def test_a_request_too_large_or_incomplete_is_malformed() -> None:
    for data in (b"", b"\x80", bytes(100_000), encode_join_request(request())[:-1]):
        with pytest.raises(MalformedMessage):
            decode_join_request(data)
    with pytest.raises(MalformedMessage):
        decode_join_reply(b"\x80")
