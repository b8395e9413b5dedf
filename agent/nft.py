"""nftables in this process: the only file that imports the libnftables binding.

Scripts are text, never JSON: libnftables 1.0.6 takes a JSON timeout of "900ms"
or 0.9 without an error and creates an element that never times out.
Only our own tables are ever listed: listing all of them costs time with the
size of other people's rules.
"""

from __future__ import annotations

import os
import threading
from typing import BinaryIO, Protocol

from agent import child
from agent.capability import CapabilityMissing
from agent.realtime import ahead
from protocol.errors import HalbError

TIMEOUT_S = 20.0
_TOO_SLOW = f"nft did not end within {TIMEOUT_S:g} s"
LARGE = 512_000
"""Characters of a script or a listing from which on a child process works on it."""


_turn = threading.Lock()
"""Held while a transaction is in the kernel, which takes them one after the other."""


class KernelRefused(HalbError):
    """nft or the kernel refused a script; nothing of it was applied."""


class NftTooSlow(KernelRefused):
    """nft was ended before it was done, as on a slow host that loads modules; it says nothing
    about what the kernel can do."""


class KernelBusy(HalbError):
    """Another thread's transaction is in the kernel; nothing was applied."""

    def __init__(self) -> None:
        super().__init__("other rules are being loaded", "It is tried again.")


class NftMissing(HalbError):
    """libnftables, its Python binding, or the nft program is not installed."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} is not installed",
            "Install it: apt install nftables libnftables1 && pip install oxl-libnftables",
        )


class _Library(Protocol):
    def cmd(self, cmdline: str) -> tuple[int, str, str]: ...
    def set_stateless_output(self, val: bool) -> int: ...
    def set_terse_output(self, val: bool) -> int: ...
    def set_numeric_proto_output(self, val: bool) -> int: ...


class Nft:
    """One libnftables context.

    Use it from one thread only; two threads that share one crash the process.
    The GIL is released while the kernel works.
    """

    def __init__(self) -> None:
        self._library: _Library = _load()
        self._much = False
        """Our tables hold so much that a child process lists them."""

    def run(self, script: str, *, patience: float = -1) -> str:
        """Apply ``script`` as one transaction and return what it printed.

        A large one is applied by a child process: the library needs 200 MB for the rules
        of 1000 Virtual Servers, and keeps them. Raises :class:`KernelRefused` with nft's
        reason, and :class:`KernelBusy` where another thread's transaction takes longer than
        ``patience`` seconds (-1: any time); then nothing was applied.
        """
        if not _turn.acquire(timeout=patience):
            raise KernelBusy
        try:
            with ahead():
                return self._run(script)
        finally:
            _turn.release()

    def _run(self, script: str) -> str:
        if len(script) > LARGE:
            self._much = True
            return _demand(script, _nft(["--file", "-"], script))
        return _demand(script, self._library.cmd(script))

    def list_table(self, family: str, name: str, *, elements: bool = True) -> str | None:
        """A table as text without counters, or None if it does not exist.

        ``elements`` False leaves out the contents of named sets and maps.
        """
        code, output, reason = self._list(f"list table {family} {name}", terse=not elements)
        if code and "No such file or directory" in reason:
            return None
        if code:
            raise _refusal(f"list table {family} {name}", reason)
        self._much = self._much or len(output) > LARGE
        return output

    def _list(self, command: str, *, terse: bool) -> tuple[int, str, str]:
        """Exit code, listing without counters, reason."""
        if self._much:
            return _nft(["--stateless", *(["--terse"] if terse else []), *command.split()])
        self._library.set_stateless_output(True)
        self._library.set_terse_output(terse)
        try:
            return self._library.cmd(command)
        finally:
            self._library.set_stateless_output(False)
            self._library.set_terse_output(False)

    def list_elements(self, kind: str, family: str, table: str, name: str) -> str:
        """One set or map (``kind``) as text, without counters."""
        self._library.set_stateless_output(True)
        try:
            return self._run(f"list {kind} {family} {table} {name}")
        finally:
            self._library.set_stateless_output(False)

    def list_timed(self, kind: str, family: str, table: str, name: str) -> str:
        """One set or map (``kind``) as text, with timeouts.

        Raises :class:`KernelRefused` if there is none.
        """
        return self._run(f"list {kind} {family} {table} {name}")


def _demand(script: str, done: tuple[int, str, str]) -> str:
    """What nft printed; raises :class:`KernelRefused` with its reason."""
    code, output, reason = done
    if code:
        raise _refusal(script, reason or f"nft ended with status {code}")
    return output


def _nft(arguments: list[str], script: str = "") -> tuple[int, str, str]:
    """Exit code and output of the nft program, and why it refused."""
    # Files in memory: megabytes through pipes would cost this process a second of its own.
    with _memory() as given, _memory() as printed, _memory() as said:
        given.write(script.encode())
        given.seek(0)
        try:
            code = child.run(["nft", *arguments], given, printed, said, TIMEOUT_S)
        except FileNotFoundError as error:
            raise NftMissing("the nft program") from error
        except child.TooSlow:
            return 1, "", _TOO_SLOW
        for file in (printed, said):
            file.seek(0)
        return code, printed.read().decode(), said.read().decode(errors="replace")


def _memory() -> BinaryIO:
    return os.fdopen(os.memfd_create("halb-nft"), "w+b")


def check(script: str) -> None:
    """Try ``script`` in a child process, without applying it.

    libnftables 1.0.6 aborts its process on some statements that it does not
    know, so statements of a new shape are tried here first. Raises
    :class:`KernelRefused`, or :class:`NftMissing` without the nft program.
    """
    with ahead():
        _demand(script, _nft(["--check", "--file", "-"], script))


def _load() -> _Library:
    try:
        import nftables
    except ImportError as error:
        raise NftMissing("the Python binding of libnftables") from error
    try:
        library: _Library = nftables.Nftables()
    except OSError as error:
        raise NftMissing("libnftables.so.1") from error
    return library


def _refusal(script: str, reason: str) -> HalbError:
    """The error for a refused script: nft's own first complaint and the line it is about."""
    if "Operation not permitted" in reason:
        return CapabilityMissing(["CAP_NET_ADMIN"], "change nftables")
    lines = reason.strip().splitlines() or ["no reason given"]
    about = lines[1].strip() if len(lines) > 1 else script.strip().splitlines()[0]
    refused = NftTooSlow if reason == _TOO_SLOW else KernelRefused
    return refused(f"nftables refused: {lines[0]} [{about[:200]}]")
