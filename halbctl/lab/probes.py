"""The parent's side of the measuring instruments: start, open a window, read it."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import halbctl
from halbctl.lab.kinds import ECHO, KINDS, prepare
from halbctl.lab.namespaces import INTERFACE, Network
from protocol.errors import Refused, TimedOut

ANSWER_TIMEOUT = 10.0
"""Seconds that an instrument may take to open or close a window."""


def python_environment() -> dict[str, str]:
    """The environment in which a child process finds the packages that this one uses."""
    source = str(Path(halbctl.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [source, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}


class Probe:
    """One running instrument."""

    def __init__(self, network: Network, host: str, module: str, *args: str) -> None:
        argv = [sys.executable, "-m", f"halbctl.lab.{module}", *args]
        self._what = f"{module} {' '.join(args)}"
        self._process = subprocess.Popen(
            network.within(host, argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=python_environment(),
            start_new_session=True,
            bufsize=0,
        )

    def begin(self) -> None:
        """Open a window; returns once the instrument measures with everything in place."""
        self.tell("begin")
        self.answer()

    def end(self) -> dict[str, Any]:
        """Close the window and return what was measured in it."""
        self.tell("end")
        return self.answer()

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())

    def answer(self) -> dict[str, Any]:
        """The next line of the instrument; raise TimedOut or Refused where none comes."""
        assert self._process.stdout is not None
        line = b""
        deadline = time.monotonic() + ANSWER_TIMEOUT
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise TimedOut(f"instrument `{self._what}` did not answer")
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    raise Refused(f"instrument `{self._what}` ended by itself")
                line += chunk
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the instrument."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


class Probes:
    """All instruments of a lab with one window: a context manager.

    ``connections`` of each of the ``kinds`` are held open.
    """

    def __init__(
        self,
        network: Network,
        vips: Sequence[str],
        *,
        connections: int = 200,
        kinds: Sequence[str] = (ECHO,),
        client: str = "client",
        observer: str = "observer",
    ) -> None:
        self.kinds, self.connections = tuple(kinds), connections
        self.by_name: dict[str, Probe] = {}
        prepare(network, kinds)
        try:
            for name in kinds:
                kind = KINDS[name]
                told = (kind.vip, str(connections), *kind.options)
                self.by_name[name] = Probe(network, client, kind.instrument, *told)
            self.by_name["newcomers"] = Probe(network, client, "newcomers", vips[0])
            self.by_name["owners"] = Probe(network, observer, "owners", INTERFACE, *vips)
        except BaseException:
            self.close()
            raise

    def begin(self, *, renew: bool = False) -> None:
        """Open a window in all instruments; ``renew``: with connections that are all new."""
        for probe in self.by_name.values():
            probe.tell("renew" if renew else "begin")
        for probe in self.by_name.values():
            probe.answer()

    def end(self) -> dict[str, dict[str, Any]]:
        """Close the window in all instruments; what each measured, by its name."""
        for probe in self.by_name.values():
            probe.tell("end")
        return {name: probe.answer() for name, probe in self.by_name.items()}

    def close(self) -> None:
        for probe in self.by_name.values():
            probe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
