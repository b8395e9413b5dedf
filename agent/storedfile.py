"""Files that are whole or not used: checksummed, and replaced in one step.

A file is written beside its name, made durable, and renamed over it; a crash
leaves the old content or the new one. What does not carry the right magic,
length and checksum is set aside as ``NAME.corrupt-N``, never used.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

from protocol.errors import HalbError

MAGIC = b"HALBFILE"
FORMAT = 1
"""Version of the format, and of what is in the files."""
LARGEST = 64 * 1024 * 1024
"""Bytes of the largest content that is read."""
_HEADER = struct.Struct(">8sHI16s32s")


class DiskError(HalbError):
    """The state directory cannot be read or written; names the path and the remedy."""


class Damaged(HalbError):
    """A file's bytes are not what was written."""


class OtherFormat(Damaged):
    """They are, but another release wrote them."""


_REMEDIES = {
    errno.ENOSPC: "Free some space on that file system; the agent tries again by itself.",
    errno.EDQUOT: "Raise the quota; the agent tries again by itself.",
    errno.EROFS: "Mount that file system writable, or choose another --state-dir.",
    errno.EIO: "The disk reports errors: see `dmesg`, and replace it.",
    errno.EACCES: "Let the agent's user own the directory, with mode 0700, and all that is in it.",
    errno.EPERM: "Let the agent's user own the directory, with mode 0700, and all that is in it.",
    errno.ENOTDIR: "Choose another --state-dir.",
}


@contextmanager
def naming(path: Path, purpose: str) -> Iterator[None]:
    """Turn an OSError within into a DiskError that says which path, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        remedy = _REMEDIES.get(error.errno or 0, "See `dmesg`, or choose another --state-dir.")
        raise DiskError(f"cannot {purpose} {path}: {reason}", remedy) from error


class StoredFile:
    """One file of the state directory."""

    def __init__(self, folder: Path, name: str, kind: str = "") -> None:
        """``kind`` is sealed into the file, so that no other can be put in its place."""
        self.path = folder / name
        self._kind = (kind or name).encode()

    def exists(self) -> bool:
        with naming(self.path, "look for"):
            return os.path.lexists(self.path)

    def write(self, content: bytes, keep_as: Path | None = None) -> None:
        """Replace the content durably; the former one stays as ``keep_as`` if given."""
        with naming(self.path, "write"):
            fresh = self._write_beside(content)
            if keep_as is not None and self.path.exists():
                _relink(self.path, keep_as)
            os.replace(fresh, self.path)
            sync_folder(self.path.parent)

    def write_if_missing(self, content: bytes) -> None:
        """Create the file durably unless it exists, whatever others do meanwhile."""
        if self.exists():
            return
        with naming(self.path, "write"):
            fresh = self._write_beside(content, ".first")
            try:
                os.link(fresh, self.path)
            except FileExistsError:
                pass
            else:
                sync_folder(self.path.parent)
            finally:
                os.unlink(fresh)

    def _write_beside(self, content: bytes, suffix: str = ".new") -> Path:
        fresh = self.path.with_name(self.path.name + suffix)
        handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            with open(handle, "wb", buffering=0) as file:
                left = memoryview(self._sealed(content))
                while left:
                    left = left[file.write(left) :]
                os.fsync(handle)
        except OSError:
            fresh.unlink(missing_ok=True)
            raise
        return fresh

    def _sealed(self, content: bytes) -> bytes:
        digest = blake2b(content, digest_size=32, person=self._kind).digest()
        return _HEADER.pack(MAGIC, FORMAT, len(content), self._kind, digest) + content

    def read(self) -> bytes | None:
        """The content, or None if there is no file; raises Damaged or DiskError."""
        with naming(self.path, "read"):
            try:
                with open(self.path, "rb") as file:
                    data = file.read(LARGEST + 1)
            except FileNotFoundError:
                return None
        return self._opened(data)

    def _opened(self, data: bytes) -> bytes:
        if not data:
            raise Damaged("it is empty")
        if len(data) < _HEADER.size:
            raise Damaged(f"it ends after {len(data)} bytes, within its header")
        magic, version, length, kind, digest = _HEADER.unpack_from(data)
        content = data[_HEADER.size :]
        if magic != MAGIC or kind.rstrip(b"\0") != self._kind:
            raise Damaged("it is not a file of this name")
        if length != len(content):
            raise Damaged(f"it has {len(content)} bytes of {length}")
        if blake2b(content, digest_size=32, person=self._kind).digest() != digest:
            raise Damaged("its checksum does not match")
        if version != FORMAT:
            raise OtherFormat(f"its format is {version}; this release reads {FORMAT}")
        return content

    def set_aside(self) -> Path:
        """Rename the file to the first free ``NAME.corrupt-N``; returns the new path."""
        with naming(self.path, "set aside"):
            n = 1
            while os.path.lexists(aside := self.path.with_name(f"{self.path.name}.corrupt-{n}")):
                n += 1
            os.rename(self.path, aside)
            sync_folder(self.path.parent)
        return aside

    def remove(self) -> None:
        """Delete the file durably; that it is gone already is fine."""
        with naming(self.path, "remove"):
            self.path.unlink(missing_ok=True)
            sync_folder(self.path.parent)


def _relink(path: Path, name: Path) -> None:
    """Make ``name`` another name of the file at ``path``, replacing what it was."""
    beside = name.with_name(name.name + ".new")
    beside.unlink(missing_ok=True)
    os.link(path, beside)
    os.replace(beside, name)


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
