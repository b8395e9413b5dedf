"""What a device must not forget: who it is, its votes, and the configuration.

One directory, mode 0700, used by one agent at a time. A damaged file is set
aside and said so; what it held is then as good as lost, and the core is told
what follows from that.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from agent.conflicts import Kept
from agent.keys import KeyPair
from agent.lastseen import NOTHING_SEEN, LastSeen
from agent.sockets import new_key_pair
from agent.storedfile import Damaged, DiskError, OtherFormat, StoredFile, naming, sync_folder
from protocol.config import Config
from protocol.effects import Ballot
from protocol.errors import HalbError, InvalidInput, MalformedMessage
from protocol.ids import NO_REVISION, DeviceId, GroupId, Revision
from protocol.local import Local
from protocol.wire import config_from_bytes, config_to_bytes, pack, unpack

__all__ = ["Disk", "DiskError", "Identity", "Loaded"]

_log = logging.getLogger("halb")
_LIMIT = 64 * 1024 * 1024
T = TypeVar("T")


@dataclass(frozen=True)
class Identity:
    """Who this device is to all others, for ever."""

    device: DeviceId
    keys: KeyPair


@dataclass(frozen=True)
class Loaded:
    """What the last life of the agent left behind."""

    ballots: dict[GroupId, Ballot]
    config: Config | None
    committed: Revision
    incarnation: int
    """Greater than in every former life; durable already."""
    notes: tuple[str, ...]
    """Sentences for the operator about files that were set aside."""
    in_force: Config | None = None
    """The configuration at ``committed``, if ``config`` is newer and this one is still there."""
    conflicts: tuple[Kept, ...] = ()
    local: Local | None = None
    gateways: LastSeen = NOTHING_SEEN
    """Those that were down."""
    ballots_lost: bool = False
    """Votes of a former life are not known: the voter must not vote until that is safe."""


class _IdentityContent(msgspec.Struct, frozen=True):
    device: DeviceId
    public: str
    secret: str


class _BallotContent(msgspec.Struct, frozen=True, array_like=True):
    group: GroupId
    term: int
    vote: DeviceId | None
    lost: bool = False


class _BallotsContent(msgspec.Struct, frozen=True, array_like=True):
    ballots: tuple[_BallotContent, ...]


class _ConfigContent(msgspec.Struct, frozen=True, array_like=True):
    committed: Revision
    config: bytes


class _ConflictsContent(msgspec.Struct, frozen=True, array_like=True):
    conflicts: tuple[Kept, ...]


class _IncarnationContent(msgspec.Struct, frozen=True, array_like=True):
    number: int


class Disk:
    """The state directory, held by this process until :meth:`close`."""

    def __init__(self, folder: Path, lock: int) -> None:
        """Use :meth:`open`."""
        self.folder = folder
        self._lock = lock
        self._ballots_lost = False
        """As found at the start."""
        self._identity = StoredFile(folder, "identity")
        self._ballots = StoredFile(folder, "ballots")
        self._config = StoredFile(folder, "config")
        self._previous = StoredFile(folder, "config.previous", kind="config")
        self._incarnation = StoredFile(folder, "incarnation")
        self._conflicts = StoredFile(folder, "conflicts")
        self._local = StoredFile(folder, "local")
        self._gateways = StoredFile(folder, "gateways")
        self._vital = (self._identity, self._ballots, self._config, self._previous)
        """Whoever starts without them is no longer who it was."""
        self._notes: list[str] = []
        self.identity = self._load_identity()

    @classmethod
    def open(cls, folder: Path) -> Disk:
        """Make the directory if needed and lock it.

        Raises DiskError if another agent has it, or its identity is of another release.
        """
        with naming(folder, "use the state directory"):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if folder.stat().st_mode & 0o077:
                _refuse_shared(folder)
                folder.chmod(0o700)
            lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                _take(lock, folder)
                return cls(folder, lock)
            except BaseException:
                os.close(lock)
                raise

    def _load_identity(self) -> Identity:
        content = self._read(self._identity, _parse(_IdentityContent))
        if content is not None:
            try:
                return Identity(content.device, KeyPair(content.public, content.secret))
            except InvalidInput as error:
                self._set_aside(self._identity, error.message)
        for file in (self._config, self._previous, self._ballots):
            if file.exists():
                self._set_aside(file, "it belongs to an identity that is lost")
        if self._notes:
            self._notes.append(
                "this device lost its identity and starts as a new one: join it with "
                "`halbctl join TOKEN`, and remove the old one with `halbctl device remove`"
            )
        identity = Identity(DeviceId(secrets.token_hex(8)), new_key_pair())
        keys = identity.keys
        self._identity.write(pack(_IdentityContent(identity.device, keys.public, keys.secret)))
        return identity

    def load(self) -> Loaded:
        """Read everything; call once, at the start. DiskError for what another release wrote."""
        expected = self._ballots.exists()
        ballots = self._read(self._ballots, _parse(_BallotsContent))
        config_damaged = False
        stored = None
        if self._config.exists():
            stored = self._read(self._config, _parse_config)
            config_damaged = stored is None
        if stored is None:
            stored = self._read(self._previous, _parse_config)
            if stored is not None:
                self._notes.append(
                    f"continuing with the configuration before, revision {stored[0].revision}; "
                    "the other devices have what is newer"
                )
            elif config_damaged:
                self._notes.append(
                    "no configuration is left: join the Site again with `halbctl join TOKEN`"
                )
        config, committed = stored or (None, NO_REVISION)
        in_force = None
        if config is not None and config.revision != committed and not config_damaged:
            # What no majority confirmed, perhaps for want of one: serve on with what was before.
            former = self._read(self._previous, _parse_config)
            in_force = former[0] if former and former[0].revision == committed else None
        conflicts = self._read(self._conflicts, _parse(_ConflictsContent))
        local = self._read(self._local, _parse(Local)) if config else None
        gateways = self._read(self._gateways, _parse(LastSeen)) if config else None
        incarnation = self._next_incarnation()
        no_ballots = ballots is None and (expected or config is not None)
        self._ballots_lost = no_ballots or config_damaged
        for note in self._notes:
            # Outside a Site there is no status that could tell.
            _log.warning("%s", note)
        return Loaded(
            ballots={b.group: Ballot(b.term, b.vote, b.lost) for b in ballots.ballots}
            if ballots
            else {},
            config=config,
            committed=committed,
            in_force=in_force,
            incarnation=incarnation,
            notes=tuple(self._notes),
            local=local,
            conflicts=conflicts.conflicts if conflicts else (),
            gateways=gateways or NOTHING_SEEN,
            ballots_lost=self._ballots_lost,
        )

    def _next_incarnation(self) -> int:
        """One more than the last; by the clock, so that it grows if the file is lost too."""
        last = self._read(self._incarnation, _parse(_IncarnationContent))
        number = max(time.time_ns() // 1_000_000, (last.number if last else 0) + 1)
        self._incarnation.write(pack(_IncarnationContent(number)))
        return number

    def save_ballots(self, ballots: Mapping[GroupId, Ballot]) -> None:
        """Replace all ballots durably. Takes as long as the disk; raises DiskError."""
        content = tuple(_BallotContent(g, b.term, b.vote, b.lost) for g, b in ballots.items())
        self._ballots.write(pack(_BallotsContent(content)))

    def save_config(self, config: Config, committed: Revision) -> None:
        """Replace the configuration durably; the former one is kept beside it.

        May run in a thread of its own, beside :meth:`save_ballots`.
        """
        # A configuration without ballots means that ballots were lost: so it stays where they
        # were, until that is written down.
        if not self._ballots_lost:
            self._ballots.write_if_missing(pack(_BallotsContent(())))
        content = pack(_ConfigContent(committed, config_to_bytes(config)))
        self._config.write(content, keep_as=self._previous.path)

    def save_local(self, local: Local | None) -> None:
        """Replace the local edits durably, or forget them."""
        if local is None:
            self._local.remove()
        else:
            self._local.write(pack(local))

    def save_gateways(self, seen: LastSeen) -> None:
        """Replace what is known of gateways that are down; without any, forget it."""
        if seen.fallen:
            self._gateways.write(pack(seen))
        else:
            self._gateways.remove()

    def save_conflicts(self, conflicts: tuple[Kept, ...]) -> None:
        """Replace the list of conflicts durably."""
        self._conflicts.write(pack(_ConflictsContent(conflicts)))

    def forget_site(self) -> None:
        """Delete configuration and ballots; the identity and the conflicts stay."""
        for file in (self._previous, self._config, self._ballots, self._local, self._gateways):
            file.remove()
        self._ballots_lost = False

    def close(self) -> None:
        """Let another agent use the directory."""
        os.close(self._lock)

    def _read(self, file: StoredFile, parse: Callable[[bytes], T]) -> T | None:
        try:
            content = file.read()
            return None if content is None else parse(content)
        except (Damaged, MalformedMessage) as error:
            whole = isinstance(error, OtherFormat | MalformedMessage)
            if whole and file in self._vital:
                raise _of_another_release(file, error) from error
            self._set_aside(file, error.message)
            return None

    def _set_aside(self, file: StoredFile, reason: str) -> None:
        aside = file.set_aside()
        self._notes.append(f"{file.path} was set aside as {aside.name}: {reason}")


def _parse(kind: type[T]) -> Callable[[bytes], T]:
    return lambda content: unpack(content, kind, _LIMIT)


def _parse_config(content: bytes) -> tuple[Config, Revision]:
    stored = unpack(content, _ConfigContent, _LIMIT)
    return config_from_bytes(stored.config, _LIMIT), stored.committed


def _of_another_release(file: StoredFile, error: HalbError) -> DiskError:
    return DiskError(
        f"{file.path} is whole, but this release cannot read it: {error.message}",
        "Install the release that wrote it, or a newer one: all is as that left it. To go on"
        " without it, move the file away and join the Site again.",
    )


def _refuse_shared(folder: Path) -> None:
    """Raise if closing the directory to all others would shut them out of what is theirs."""
    held = {entry.name for entry in folder.iterdir()}
    if held and not any((folder / name).is_file() for name in ("identity", "lock")):
        raise DiskError(
            f"{folder} holds other files ({min(held)[:60]!r}) and is open to others",
            "Choose another --state-dir: only the agent may read what is in it.",
        )


def _take(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 32).decode("ascii", "replace").strip() or "unknown"
        raise DiskError(
            f"state directory {folder} is in use by another halb-agent (process {holder})",
            "Stop that one, or start this one with another --state-dir.",
        ) from None
    os.ftruncate(lock, 0)
    os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
    sync_folder(folder)
