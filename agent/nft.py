"""nftables in this process: the only file that imports the libnftables binding.

Scripts are text, never JSON: libnftables 1.0.6 takes a JSON timeout of "900ms"
or 0.9 without an error and creates an element that never times out.
Only our own tables are ever listed: listing all of them costs time with the
size of other people's rules.
"""

from __future__ import annotations

import subprocess
from typing import Protocol

from agent.capability import CapabilityMissing
from protocol.errors import HalbError

CHECK_TIMEOUT_S = 20.0


class KernelRefused(HalbError):
    """nft or the kernel refused a script; nothing of it was applied."""


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

    def run(self, script: str) -> str:
        """Apply ``script`` as one transaction and return what it printed.

        Raises :class:`KernelRefused` with nft's reason; then nothing was applied.
        """
        code, output, reason = self._library.cmd(script)
        if code:
            raise _refusal(script, reason)
        return output

    def list_table(self, family: str, name: str, *, elements: bool = True) -> str | None:
        """A table as text without counters, or None if it does not exist.

        ``elements`` False leaves out the contents of named sets and maps.
        """
        self._library.set_stateless_output(True)
        self._library.set_terse_output(not elements)
        code, output, reason = self._library.cmd(f"list table {family} {name}")
        self._library.set_stateless_output(False)
        self._library.set_terse_output(False)
        if code and "No such file or directory" in reason:
            return None
        if code:
            raise _refusal(f"list table {family} {name}", reason)
        return output

    def list_elements(self, kind: str, family: str, table: str, name: str) -> str:
        """One set or map (``kind``) as text, without counters."""
        self._library.set_stateless_output(True)
        try:
            return self.run(f"list {kind} {family} {table} {name}")
        finally:
            self._library.set_stateless_output(False)

    def list_set(self, family: str, table: str, name: str) -> str:
        """One set as text, with timeouts; raise :class:`KernelRefused` if there is none."""
        return self.run(f"list set {family} {table} {name}")


def check(script: str) -> None:
    """Try ``script`` in a child process, without applying it.

    libnftables 1.0.6 aborts its process on some statements that it does not
    know, so statements of a new shape are tried here first. Raises
    :class:`KernelRefused`, or :class:`NftMissing` without the nft program.
    """
    try:
        done = subprocess.run(
            ["nft", "--check", "--file", "-"],
            input=script,
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT_S,
            check=False,
        )
    except FileNotFoundError as error:
        raise NftMissing("the nft program") from error
    if done.returncode:
        raise _refusal(script, done.stderr or f"nft ended with status {done.returncode}")


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
    return KernelRefused(f"nftables refused: {lines[0]} [{about[:200]}]")
