"""Kernels that can keep a lease, and those that cannot."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.capability import CapabilityMissing, KernelTooOld, require, require_kernel


@pytest.mark.parametrize("release", ["5.18.0", "6.1.0-18-amd64", "6.8.0-31-generic", "10.0"])
def test_kernels_that_are_new_enough(release: str) -> None:
    require_kernel(release)


@pytest.mark.parametrize("release", ["5.17.9", "4.19.0-26-amd64", "5.10.0-28-cloud"])
def test_older_kernels_are_refused_with_the_version_needed(release: str) -> None:
    with pytest.raises(KernelTooOld, match=rf"(?s)Linux {release}.*5\.18 or newer"):
        require_kernel(release)


def test_all_missing_capabilities_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.capability._effective", lambda: 0)
    with pytest.raises(CapabilityMissing, match="CAP_NET_ADMIN and CAP_NET_RAW missing"):
        require(["CAP_NET_ADMIN", "CAP_NET_RAW"], "run a device")


@pytest.mark.parametrize(("soft", "hard", "now"), [(64, 512, 512), (64, 64, 64)])
def test_as_many_files_may_be_open_as_the_host_allows(soft: int, hard: int, now: int) -> None:
    code = (
        "import resource; from agent.capability import allow_descriptors; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); allow_descriptors(); "
        "print(*resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"{now} {hard}\n"
