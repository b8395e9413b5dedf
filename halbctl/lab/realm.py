"""Where the namespaces of a lab live: this host for root, a user namespace for others.

An ordinary user may own network namespaces only inside a user namespace. One
sleeping process, the *holder*, keeps it alive; everything else enters it with
``nsenter``. Its ``/run`` is a tmpfs, so that ``ip netns`` may write there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from halbctl.lab.processes import kill
from protocol.errors import Refused

COMMAND_TIMEOUT = 30.0
"""Seconds that a command which sets up the lab may take."""

_HOLD = "mount -t tmpfs tmpfs /run && echo ready && exec sleep infinity"


@dataclass(frozen=True)
class Realm:
    """Runs commands where the namespaces live."""

    holder: int | None = None
    """Process id of the holder; None where this process is root."""

    def wrap(self, argv: Sequence[str]) -> list[str]:
        """``argv`` as it must be started from here to run inside the realm."""
        if self.holder is None:
            return list(argv)
        target = f"--target={self.holder}"
        enter = ["nsenter", target, "--user", "--mount", "--net", "--preserve-credentials", "--"]
        return [*enter, *argv]

    def within(self, namespace: str, argv: Sequence[str]) -> list[str]:
        """``argv`` as it must be started from here to run inside a network namespace."""
        return self.wrap(["ip", "netns", "exec", namespace, *argv])

    def run(self, *argv: str, text: str | None = None) -> str:
        """Run a short command inside the realm; return its output, raise Refused if it fails."""
        return run_command(self.wrap(argv), text)

    def close(self) -> None:
        """End the holder, and with it the user namespace once nothing runs in it."""
        if self.holder is not None:
            kill(self.holder)


def open_realm() -> Realm:
    """The realm of this user, made now where one is needed.

    Raise Refused where a tool is missing or user namespaces are switched off.
    """
    # Debian leaves the folders of `ip` and `nft` out of an ordinary user's path.
    os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    need_tools("ip", "nft")
    if os.geteuid() == 0:
        return Realm()
    need_tools("unshare", "nsenter")
    holder = subprocess.Popen(
        ["unshare", "--user", "--map-root-user", "--net", "--mount", "sh", "-c", _HOLD],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stderr is not None
    if holder.stdout.readline().strip() != "ready":
        _, errors = holder.communicate(timeout=COMMAND_TIMEOUT)
        raise Refused(
            f"no user namespace could be made: {errors.strip()}",
            "Run as root, or allow user namespaces "
            "(sysctl kernel.apparmor_restrict_unprivileged_userns=0 on Ubuntu).",
        )
    holder.stdout.close()
    holder.stderr.close()
    return Realm(holder.pid)


def need_tools(*names: str) -> None:
    """Raise Refused naming the tools that are missing and the package that has them."""
    packages = {"ip": "iproute2", "nft": "nftables", "unshare": "util-linux"}
    packages["nsenter"] = "util-linux"
    missing = [name for name in names if shutil.which(name) is None]
    if missing:
        wanted = " ".join(sorted({packages[name] for name in missing}))
        raise Refused(f"not found: {', '.join(missing)}", f"Install them: apt install {wanted}")


def run_command(argv: Sequence[str], text: str | None = None) -> str:
    """Run a short command; return its standard output, raise Refused if it fails."""
    done = subprocess.run(
        list(argv), input=text, capture_output=True, text=True, timeout=COMMAND_TIMEOUT, check=False
    )
    if done.returncode != 0:
        raise Refused(f"`{' '.join(argv)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def state_root() -> Path:
    """The directory that holds one directory per lab, made if absent and ours alone.

    Short, because the path of a control socket may have 107 bytes at most; not
    below ``/run/user``, which a user namespace hides behind its own ``/run``.
    """
    uid = os.geteuid()
    root = Path("/run/halb-lab") if uid == 0 and os.access("/run", os.W_OK) else None
    root = root or Path(f"/tmp/halb-lab-{uid}")  # noqa: S108 - its owner and mode are checked
    root.mkdir(mode=0o700, exist_ok=True)
    about = root.lstat()
    if root.is_symlink() or about.st_uid != uid or about.st_mode & 0o077:
        raise Refused(
            f"{root} does not belong to this user alone",
            f"Remove it: rm -r {root}",
        )
    return root
