"""pytest plugin: gives the tests a network of their own where the user has none.

Tests marked ``kernel`` make network namespaces, which takes CAP_SYS_ADMIN and
CAP_NET_ADMIN. Without them this plugin starts pytest again inside a user, network,
mount and process namespace in which the user has both, over a /run of its own;
all processes in it end with pytest. Where the kernel forbids that too, the tests
marked ``kernel`` are skipped with the reason; in CI they fail instead.

Load it with ``-p tests.userns``, as scripts/test does: from a conftest.py it would
come too late, after pytest began to capture the output.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

CAP_NET_ADMIN = 12
CAP_SYS_ADMIN = 21
INSIDE = "HALB_TEST_NAMESPACE"
"""Set for the pytest inside the namespace and for its workers."""
TOLD = "HALB_TEST_REFUSAL"
"""Tells the workers why they can have no namespace."""

UNSHARE = [
    "unshare", "--user", "--map-root-user", "--net", "--mount", "--pid",
    "--fork", "--kill-child", "--mount-proc",
]  # fmt: skip
PREPARE = "mount -t tmpfs tmpfs /run && ip link set lo up"


def has_capabilities(status: str) -> bool:
    """Whether ``status``, the text of /proc/self/status, shows both capabilities in effect."""
    line = next(line for line in status.splitlines() if line.startswith("CapEff:"))
    effective = int(line.split()[1], 16)
    return all(effective >> capability & 1 for capability in (CAP_NET_ADMIN, CAP_SYS_ADMIN))


def why_not() -> str:
    """Why this process can make no user namespace with a network; empty if it can."""
    try:
        probe = subprocess.run(
            [*UNSHARE, "sh", "-c", PREPARE], capture_output=True, check=False, text=True, timeout=10
        )
    except FileNotFoundError:
        return "unshare (Debian package util-linux) is missing"
    except subprocess.TimeoutExpired:
        return "unshare did not end within 10 s"
    return probe.stderr.strip() if probe.returncode else ""


def _enter() -> NoReturn:
    """Start pytest again inside a namespace, in place of this process."""
    pytest_again = [sys.executable, "-m", "pytest", *sys.argv[1:]]
    command = [*UNSHARE, "sh", "-c", f'{PREPARE} && exec "$@"', "sh", *pytest_again]
    sys.stdout.flush()
    os.execvpe(command[0], command, {**os.environ, INSIDE: "1"})


def _refusal() -> str:
    if INSIDE in os.environ or has_capabilities(Path("/proc/self/status").read_text()):
        return ""
    if TOLD not in os.environ:
        os.environ[TOLD] = why_not() or _enter()
    return os.environ[TOLD]


REFUSAL = _refusal()
"""Why tests marked ``kernel`` cannot run here; empty if they can."""


def pytest_report_header() -> str:
    """Say where the kernel tests run."""
    if REFUSAL:
        return f"kernel tests: cannot run here: {REFUSAL}"
    return f"kernel tests: {'in a user namespace' if INSIDE in os.environ else 'as root'}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what cannot run here, unless in CI, where a green run must have run it."""
    if not REFUSAL or os.environ.get("CI") == "true":
        return
    skip = pytest.mark.skip(
        reason=f"needs namespaces ({REFUSAL}): run as root, or allow user namespaces"
        " (Ubuntu: sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
    )
    for item in items:
        if item.get_closest_marker("kernel"):
            item.add_marker(skip)
