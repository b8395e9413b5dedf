"""``halb-agent``: start, signals, exit codes."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

from agent import journal, realtime
from agent.agent import Agent
from agent.capability import allow_descriptors
from agent.disk import Disk
from agent.patience import PatientLoop
from agent.readiness import lacking, service_manager, settle, tell_ready
from agent.settings import Settings, read_settings
from agent.worker import workers
from protocol.errors import HalbError

SWITCH_S = 0.0005
"""Another thread that computes gives way to the loop after so long. Python's own is ten times as
much, after each system call of the loop: with many checks, which are many calls, leases end."""
AT_HAND = 6
"""Threads for what operators ask and what is done now and then, such as counting flows."""

STOPS = (signal.SIGTERM, signal.SIGINT)
WITHOUT_MEANING = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What other daemons read their settings anew for, or reopen their logs."""

_log = logging.getLogger("halb")


def release() -> str:
    """Version of the installed distribution; ``0+unknown`` where it runs uninstalled."""
    try:
        return version("halb")
    except PackageNotFoundError:
        return "0+unknown"


async def run(settings: Settings, disk: Disk) -> None:
    """Work until SIGTERM or SIGINT, then stop cleanly."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    # Who closes the terminal that it runs in wants its end.
    stops = (*STOPS, signal.SIGHUP) if os.isatty(0) else STOPS
    for number in stops:
        loop.add_signal_handler(number, stop.set)
    for number in set(WITHOUT_MEANING) - set(stops):
        loop.add_signal_handler(number, _log.warning, "%s means nothing here", number.name)
    manager = service_manager()
    agent = Agent(settings, disk, disk.load(), release())
    loop.set_default_executor(workers("halb-work", AT_HAND))
    try:
        await agent.start()
    except BaseException:
        await agent.close(leave_nothing=False)
        raise
    missing = realtime.enter().missing
    for each in missing:
        _log.warning("%s", each)
    where = agent.config.site.name if agent.config.site else "no Site yet"
    _log.info("device %s (%s) is up: %s", agent.name, agent.device, where)
    if manager and agent.in_site:
        await settle(lambda: lacking(agent.view(), agent.device), stop)
    tell_ready(manager)
    await stop.wait()
    # A second signal is for those who cannot wait: the kernel lease ends by itself.
    for number in stops:
        loop.remove_signal_handler(number)
    _log.info("stopping")
    await agent.stop()


def stand_in() -> None:
    """Open the null device in place of each standard file that this process was started without.

    The next file to be opened would have its number: what others write there would go to it.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    stand_in()
    try:
        settings = read_settings(
            sys.argv[1:] if arguments is None else arguments, version=release()
        )
        journal.set_up(settings.log_level)
        allow_descriptors()
        sys.setswitchinterval(SWITCH_S)
        disk = Disk.open(settings.state_dir)
        try:
            with asyncio.Runner(loop_factory=PatientLoop) as runner:
                runner.run(run(settings, disk))
        finally:
            disk.close()
    except HalbError as error:
        hint = f"\nhint: {error.remedy}" if error.remedy else ""
        sys.stderr.write(f"halb-agent: error: {error.message}{hint}\n")
        return int(error.exit_code)
    return 0


if __name__ == "__main__":
    sys.exit(main())
