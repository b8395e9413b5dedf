"""Real-time priority and locked memory: taken where allowed, reported where not.

Each test runs in a child process, since it changes the process for good.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.realtime import may_lock_everything, priority_remedy

ROOT = Path(__file__).parents[2]


def run(code: str, *wrapper: str) -> str:
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", code],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def may_raise_priority() -> bool:
    code = "from agent.realtime import raise_priority; print(not raise_priority())"
    return run(code) == "True"


def test_says_what_it_got_and_what_not_and_never_fails() -> None:
    out = run(
        "from agent.realtime import enter; r = enter(); print(len(r.got) + len(r.missing));"
        "print(*r.missing, sep='\\n')"
    )
    count, *missing = out.splitlines()
    assert count == "2"
    assert all("; grant CAP_" in reason or "refused" in reason for reason in missing)


def test_what_lives_at_start_is_not_collected_again() -> None:
    code = (
        "import gc; from agent.realtime import settle_memory;"
        "settle_memory(); print(gc.get_freeze_count() > 0)"
    )
    assert run(code) == "True"


def test_all_that_lives_is_seldom_looked_at_and_not_what_came_to_stay() -> None:
    out = run(
        "import gc\n"
        "from agent.realtime import keep_memory, settle_memory\n"
        "settle_memory()\n"
        "full = 0\n"
        "def count(phase, about):\n"
        "    global full\n"
        "    full += phase == 'stop' and about['generation'] == 2\n"
        "gc.callbacks.append(count)\n"
        "each_second = [[[] for _ in range(50_000)] for _ in range(20)]\n"
        "print(full <= 2)\n"
        "before = gc.get_freeze_count()\n"
        "keep_memory()\n"
        "print(gc.get_freeze_count() - before > 990_000)\n"
    )
    assert out.split() == ["True", "True"]


def test_what_came_to_stay_goes_when_nobody_needs_it_any_more() -> None:
    out = run(
        "import weakref\n"
        "from agent.realtime import keep_memory, settle_memory\n"
        "class Check: pass\n"
        "settle_memory()\n"
        "check = Check()\n"
        "check.failure = [check]\n"
        "known = weakref.ref(check)\n"
        "keep_memory()\n"
        "del check\n"
        "keep_memory()\n"
        "print(known())\n"
    )
    assert out == "None"


@pytest.mark.skipif(not may_raise_priority(), reason="real-time priority is not allowed here")
def test_the_transport_is_raised_and_later_threads_are_not() -> None:
    out = run(
        "import os, threading, time, zmq\n"
        "from agent.realtime import _transport_threads, raise_priority\n"
        "context = zmq.Context()\n"
        "socket = context.socket(zmq.PUB)  # starts libzmq's two threads\n"
        "deadline = time.monotonic() + 10\n"
        "while len(_transport_threads()) < 2 and time.monotonic() < deadline: time.sleep(0.001)\n"
        "assert raise_priority() == ''\n"
        "def policy(t): return os.sched_getscheduler(t) & ~os.SCHED_RESET_ON_FORK\n"
        "print(*{policy(t) for t in (0, *_transport_threads())}, len(_transport_threads()))\n"
        "def late(): print(policy(threading.get_native_id()))\n"
        "thread = threading.Thread(target=late); thread.start(); thread.join()\n"
        "socket.close(); context.term()\n"
    )
    assert out.splitlines() == [f"{os.SCHED_RR} 2", str(os.SCHED_OTHER)]


PRIORITIES = (
    "import os, threading\n"
    "from agent.realtime import ahead, raise_priority\n"
    "def now(): return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK, "
    "os.sched_getparam(0).sched_priority\n"
    "def worker():\n"
    "    before = now()\n"
    "    with ahead(): within = now()\n"
    "    print(before, within, now())\n"
    "def run():\n"
    "    thread = threading.Thread(target=worker); thread.start(); thread.join()\n"
)
ORDINARY = (os.SCHED_OTHER, 0)


@pytest.mark.skipif(not may_raise_priority(), reason="real-time priority is not allowed here")
def test_who_holds_up_the_heartbeat_is_next_to_it_for_a_moment() -> None:
    out = run(PRIORITIES + "raise_priority(10); run(); worker()")
    of_worker, of_heartbeat = out.splitlines()
    assert of_worker == f"{ORDINARY} {(os.SCHED_RR, 9)} {ORDINARY}"
    assert of_heartbeat == " ".join([str((os.SCHED_RR, 10))] * 3)


@pytest.mark.skipif(not may_raise_priority(), reason="real-time priority is not allowed here")
def test_who_holds_up_the_heartbeat_keeps_to_one_processor_with_its_children() -> None:
    code = (
        "import sys\n"
        "from agent import child\n"
        "SAY = 'import os; print(len(os.sched_getaffinity(0)), os.sched_getscheduler(0),' \\\n"
        "    ' os.sched_getparam(0).sched_priority)'\n"
        "def spawn():\n"
        "    made = [os.fdopen(os.memfd_create(n), 'w+b') for n in 'ioe']\n"
        "    assert child.run([sys.executable, '-c', SAY], *made, 60.0) == 0\n"
        "    made[1].seek(0); print(made[1].read().decode(), end='')\n"
        "def worker():\n"
        "    with ahead(): spawn(); print(len(os.sched_getaffinity(0)))\n"
        "    spawn()\n"
        "raise_priority(10); run()"
    )
    allowed = len(os.sched_getaffinity(0))
    assert run(PRIORITIES + code).splitlines() == [
        f"1 {os.SCHED_RR} 9",
        "1",
        f"{allowed} {os.SCHED_OTHER} 0",
    ]


@pytest.mark.skipif(not may_raise_priority(), reason="real-time priority is not allowed here")
def test_a_worker_can_tell_that_the_heartbeat_has_priority() -> None:
    code = (
        "from agent.realtime import on_time\n"
        "def worker(): print(on_time())\n"
        "run(); raise_priority(10); run()"
    )
    assert run(PRIORITIES + code) == "False\nTrue"


def test_where_the_heartbeat_is_ordinary_nobody_comes_first() -> None:
    assert run(PRIORITIES + "run()") == " ".join([str(ORDINARY)] * 3)


def test_where_the_heartbeat_is_ordinary_nobody_keeps_to_a_processor() -> None:
    code = "with ahead(): print(os.sched_getaffinity(0) == before)"
    assert run(f"{PRIORITIES}before = os.sched_getaffinity(0)\n{code}") == "True"


@pytest.mark.skipif(not may_lock_everything(), reason="locking memory is not allowed here")
def test_locked_memory_costs_none_that_is_not_used() -> None:
    out = run(
        "from agent.realtime import lock_memory\n"
        "def rss():\n"
        "    text = open('/proc/self/status').read()\n"
        "    return int(text.split('VmRSS:')[1].split()[0])\n"
        "before = rss(); assert lock_memory() == ''; print(rss() - before)\n"
    )
    assert int(out) < 2048, "KiB"


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give capabilities up")
def test_without_the_capabilities_it_says_which_are_missing() -> None:
    # It still has to read the checkout, wherever that is.
    bounds = ("--bounding-set", "-all,+dac_override,+dac_read_search", "--inh-caps", "-all")
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))\n"
        "from agent.realtime import enter; print(*enter().missing, sep='\\n')"
    )
    priority, memory = run(code, "setpriv", *bounds).splitlines()
    assert "grant CAP_SYS_NICE" in priority
    assert "grant CAP_IPC_LOCK" in memory


@pytest.mark.parametrize(("held", "remedy"), [(True, "control group"), (False, "CAP_SYS_NICE")])
def test_who_has_the_capability_is_not_told_to_get_it(
    held: bool, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that shares out real time gives none of it to a container's control group."""
    monkeypatch.setattr("agent.realtime._holds", lambda _: held)
    assert remedy in priority_remedy()


VOTES = (
    "import asyncio, os, sys\n"
    "from pathlib import Path\n"
    "from agent.disk import Disk\n"
    "from agent.realtime import raise_priority\n"
    "from agent.storage import Storage\n"
    "async def main():\n"
    "    disk = Disk.open(Path(sys.argv[1])); disk.load()\n"
    "    storage = Storage(disk, {}, told.append)\n"
    "    def save(_): seen.append(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)\n"
    "    disk.save_ballots = save\n"
    "    for number in (1, 2):\n"
    "        storage.save_ballots(number, {})\n"
    "        while len(told) < number: await asyncio.sleep(0.001)\n"
    "        raise_priority()\n"
    "    storage.close()\n"
    "told, seen = [], []\n"
    "asyncio.run(main())\n"
    "print(*seen)\n"
)


@pytest.mark.skipif(not may_raise_priority(), reason="real-time priority is not allowed here")
def test_votes_are_written_ahead_of_ordinary_work_once_the_agent_has_its_priority(
    tmp_path: Path,
) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", VOTES, str(tmp_path / "state")],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert ran.stdout.split() == [str(os.SCHED_OTHER), str(os.SCHED_RR)]
