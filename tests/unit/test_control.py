"""The control socket: real ZeroMQ on both sides, and clients that misbehave."""

from __future__ import annotations

import asyncio
import errno
import os
import socket as plain
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgpack
import pytest

from agent import monitors, requests, sockets
from agent.capability import allow_descriptors
from agent.control import ControlServer
from agent.sockets import Socket
from protocol import api
from protocol.errors import ExitCode, HalbError, InvalidInput, NoQuorum, Refused
from protocol.wire import decode_reply, encode_request

VERSION = api.VersionInfo(
    agent="0.1.0", protocol_min=1, protocol_max=1, device="a", id="0" * 16, site=""
)
STATUS = api.Status(
    site="paris", revision="1.1", device="a", coordinator=None,
    virtual_servers=(), devices=(), warnings=(),
)  # fmt: skip


async def carry_out(request: api.Request) -> api.Result:
    match request.op:
        case api.GetVersion():
            return VERSION
        case api.GetStatus():
            raise NoQuorum("two of three devices are silent", "Start them.")
        case api.Export():
            raise ValueError("a defect")
        case api.GetMetrics():
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/proc/uptime")
        case api.GetDoctor():
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), "nft")
        case api.GetHistory():
            await asyncio.sleep(3600)
    raise Refused("no")


async def watch(interval: float) -> AsyncIterator[api.Status]:
    while True:
        yield STATUS
        await asyncio.sleep(interval)


class Client:
    """A DEALER as ``halbctl`` has one."""

    def __init__(self, socket: Socket, context: Any, got: asyncio.Queue[list[bytes]]) -> None:
        self.socket, self.context, self.got = socket, context, got

    @classmethod
    async def to(cls, path: Path) -> Client:
        context, got = sockets.new_context(), asyncio.Queue[list[bytes]]()
        socket = await Socket.open(context, sockets.DEALER, {}, got.put_nowait)
        socket.connect(f"ipc://{path}")
        return cls(socket, context, got)

    def send(self, op: api.Op, request: str = "1", version: int = api.API_VERSION) -> None:
        self.socket.send((encode_request(api.Request(version, request, op)),))

    async def reply(self) -> api.Reply:
        (frame,) = await asyncio.wait_for(self.got.get(), 5)
        return decode_reply(frame)

    async def close(self) -> None:
        await self.socket.close()
        self.context.destroy()


def with_server(path: Path, scenario: Callable[[ControlServer, Client], Awaitable[None]]) -> None:
    async def run() -> None:
        server = ControlServer(path, carry_out, watch)
        await server.start()
        client = await Client.to(path)
        try:
            await scenario(server, client)
        finally:
            await client.close()
            await server.close()

    asyncio.run(run())


def test_a_request_is_answered_under_its_id(tmp_path: Path) -> None:
    async def scenario(server: ControlServer, client: Client) -> None:
        client.send(api.GetVersion(), "xyz")
        assert await client.reply() == api.Reply(api.API_VERSION, "xyz", VERSION)

    with_server(tmp_path / "c", scenario)


def test_a_refusal_carries_exit_code_message_and_remedy(tmp_path: Path) -> None:
    async def scenario(server: ControlServer, client: Client) -> None:
        client.send(api.GetStatus())
        failure = (await client.reply()).failure
        assert failure == api.Failure(5, "two of three devices are silent", "Start them.")

    with_server(tmp_path / "c", scenario)


def test_a_defect_is_reported_to_the_client_and_to_the_loop(tmp_path: Path) -> None:
    async def scenario(server: ControlServer, client: Client) -> None:
        seen: list[dict[str, Any]] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: seen.append(context))
        client.send(api.Export())
        failure = (await client.reply()).failure
        assert failure
        assert "ValueError: a defect" in failure.message
        await until(lambda: bool(seen))
        client.send(api.GetVersion(), "2")
        assert (await client.reply()).result == VERSION

    with_server(tmp_path / "c", scenario)


def test_a_limit_of_the_host_is_called_no_defect(tmp_path: Path) -> None:
    async def scenario(_: ControlServer, client: Client) -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: None)
        client.send(api.GetMetrics())
        failure = (await client.reply()).failure
        assert failure is not None
        assert failure.message == "the agent cannot answer: Too many open files"
        assert "LimitNOFILE=" in failure.remedy
        client.send(api.GetDoctor(), "2")
        failure = (await client.reply()).failure
        assert failure is not None
        assert failure.message == "the agent cannot answer: nft: Resource temporarily unavailable"
        assert "TasksMax=" in failure.remedy

    with_server(tmp_path / "s", scenario)


def test_garbage_is_counted_answered_where_possible_and_harms_nobody(tmp_path: Path) -> None:
    async def scenario(server: ControlServer, client: Client) -> None:
        for frames in ((b"\xc1garbage",), (b"a", b"b"), (b"",), (os.urandom(5000),)):
            client.socket.send(frames)
        client.socket.send((msgpack.packb({"v": 1, "id": "g1", "op": {"op": "fly"}}),))
        failed = await client.reply()
        assert failed.id == "g1"
        assert failed.failure
        assert failed.failure.exit_code == ExitCode.USAGE
        assert "fly" in failed.failure.message
        client.send(api.GetVersion(), "2")
        assert (await client.reply()).result == VERSION
        assert server.counters()["malformed"] == 5

    with_server(tmp_path / "c", scenario)


def test_an_oversized_frame_is_dropped_with_its_connection(tmp_path: Path) -> None:
    async def scenario(server: ControlServer, client: Client) -> None:
        client.socket.send((bytes(api.MAX_FRAME + 1),))
        other = await Client.to(server.path)
        other.send(api.GetVersion())
        assert (await other.reply()).result == VERSION
        await other.close()

    with_server(tmp_path / "c", scenario)


def test_another_version_of_the_api_is_refused(tmp_path: Path) -> None:
    async def scenario(server: ControlServer, client: Client) -> None:
        client.send(api.GetVersion(), version=99)
        failure = (await client.reply()).failure
        assert failure
        assert "version 99" in failure.message

    with_server(tmp_path / "c", scenario)


def test_a_watch_goes_on_until_its_lease_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(api, "WATCH_LEASE_S", 3.0)

    async def scenario(server: ControlServer, client: Client) -> None:
        client.send(api.Watch(0.02), "w")
        clock = asyncio.get_running_loop().time
        for _ in range(10):
            reply = await client.reply()
            assert reply.more
            assert reply.result == STATUS
        client.send(api.KeepWatching(), "w")
        extended = clock()
        await silence(client, 0.5)
        assert clock() - extended >= 3.0

    with_server(tmp_path / "c", scenario)


def test_requests_at_work_are_bounded(tmp_path: Path) -> None:
    async def scenario(server: ControlServer, client: Client) -> None:
        for n in range(requests.AT_WORK + 1):
            client.send(api.GetHistory(), str(n))
        reply = await client.reply()
        assert reply.id == str(requests.AT_WORK)
        assert reply.failure
        assert "under way" in reply.failure.message

    with_server(tmp_path / "c", scenario)


def test_a_client_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    async def scenario(server: ControlServer, client: Client) -> None:
        deaf = client.context.socket(sockets.DEALER)
        deaf.connect(f"ipc://{server.path}")
        deaf.send(encode_request(api.Request(api.API_VERSION, "w", api.Watch(0.0))))
        for n in range(20):
            client.send(api.GetVersion(), str(n))
            assert (await client.reply()).result == VERSION
        assert len(server.counters()) == 1
        deaf.close(0)

    with_server(tmp_path / "c", scenario)


def test_only_owner_and_group_may_use_the_socket(tmp_path: Path) -> None:
    async def scenario(server: ControlServer, client: Client) -> None:
        mode = server.path.stat().st_mode
        assert stat.S_IMODE(mode) == 0o660

    with_server(tmp_path / "c", scenario)


def test_a_second_agent_is_refused_and_the_first_lives_on(tmp_path: Path) -> None:
    async def scenario(server: ControlServer, client: Client) -> None:
        with pytest.raises(Refused, match="in use by another"):
            await ControlServer(server.path, carry_out, watch).start()
        client.send(api.GetVersion())
        assert (await client.reply()).result == VERSION

    with_server(tmp_path / "c", scenario)


async def refused_start(path: Path) -> HalbError:
    with pytest.raises(HalbError) as caught:
        await ControlServer(path, carry_out, watch).start()
    return caught.value


def test_a_stale_socket_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    os.mknod(tmp_path / "c", stat.S_IFSOCK | 0o600)

    async def scenario(server: ControlServer, client: Client) -> None:
        client.send(api.GetVersion())
        assert (await client.reply()).result == VERSION

    with_server(tmp_path / "c", scenario)
    (tmp_path / "f").write_text("precious")
    error = asyncio.run(refused_start(tmp_path / "f"))
    assert "is no socket" in error.message
    assert (tmp_path / "f").read_text() == "precious"


def test_a_path_too_long_is_named(tmp_path: Path) -> None:
    error = asyncio.run(refused_start(tmp_path / ("x" * 120)))
    assert isinstance(error, InvalidInput)
    assert "107 may be" in error.message


async def silence(client: Client, seconds: float) -> None:
    """Return once nothing has come for ``seconds``."""
    while True:
        try:
            await asyncio.wait_for(client.got.get(), seconds)
        except TimeoutError:
            return


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # what is waited for sends no event
            await asyncio.sleep(0.01)


def connected(path: Path, number: int) -> list[plain.socket]:
    """So many connections that say nothing."""
    made = [plain.socket(plain.AF_UNIX) for _ in range(number)]
    for each in made:
        each.connect(str(path))
        each.settimeout(10)
    return made


def test_the_oldest_connection_makes_room_where_there_are_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitors, "MOST", 20)

    async def scenario(server: ControlServer, client: Client) -> None:
        client.send(api.GetVersion())
        await client.reply()
        idle = await asyncio.to_thread(connected, server.path, 100)
        for each in idle[:80]:
            received = await asyncio.to_thread(each.recv, 100)
            while received:  # its greeting, then its end
                received = await asyncio.to_thread(each.recv, 100)
        newcomer = await Client.to(server.path)
        newcomer.send(api.GetVersion())
        assert (await newcomer.reply()).result == VERSION
        await newcomer.close()
        assert ended(idle[80:]) <= 2, "those of the clients make room alone"
        await until(lambda: still_asks(client))
        for each in idle:
            each.close()

    with_server(tmp_path / "c", scenario)


def ended(connections: list[plain.socket]) -> int:
    """How many of them are at their end."""
    count = 0
    for each in connections:
        each.setblocking(False)
        with suppress(BlockingIOError):
            while each.recv(100):
                pass
            count += 1
    return count


def still_asks(client: Client) -> bool:
    """Its connection was ended, and it has made another: something that it asked is answered."""
    client.send(api.GetVersion())
    return not client.got.empty()


def test_more_connections_than_descriptors_end_no_agent(tmp_path: Path) -> None:
    """libzmq would; so in a process of its own."""
    path = tmp_path / "c"
    allow_descriptors()
    program = f"""
import asyncio, resource
from pathlib import Path
from agent.control import ControlServer
from tests.unit.test_control import carry_out, watch
async def serve():
    server = ControlServer(Path({str(path)!r}), carry_out, watch)
    await server.start()
    print("ready", flush=True)
    await asyncio.sleep(3600)
resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
asyncio.run(serve())
"""
    served = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE)
    assert served.stdout is not None
    try:
        assert served.stdout.readline() == b"ready\n"
        idle = [one for _ in range(12) for one in connected(path, 500)]
        asyncio.run(answered(path))
        assert served.poll() is None
        for each in idle:
            each.close()
    finally:
        served.kill()
        served.wait()
        served.stdout.close()


async def answered(path: Path) -> None:
    client = await Client.to(path)
    client.send(api.GetVersion())
    assert (await client.reply()).result == VERSION
    await client.close()
