"""Rules that somebody flushes in the very moment in which a pass is at work."""

from __future__ import annotations

import pytest

from tests.kernel.namespaces import VIP, Device, desired
from tests.kernel.test_dataplane import WANTED, words

pytestmark = pytest.mark.kernel


@pytest.mark.parametrize("step", ["_set_rules", "_placed.reconcile", "_look"])
@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
def test_rules_that_are_flushed_while_a_pass_is_at_work_are_back_when_it_ends(
    device: Device, monkeypatch: pytest.MonkeyPatch, step: str, before: bool
) -> None:
    """What was lost then is neither what this pass made nor what others changed since."""
    device.reconcile(WANTED)
    whole = device.run("nft", "-s", "list", "ruleset"), device.run("ip", "address")
    device.reconcile(desired(WANTED.virtual_servers[0], [VIP]))
    device.take([VIP])
    flushes = ["nft", "flush", "ruleset"]
    part, _, name = step.rpartition(".")
    owner = getattr(device.plane, part) if part else device.plane
    own = getattr(owner, name)

    def flushed(*given: object) -> object:
        if before and flushes:
            device.run(*flushes)
            flushes.clear()
        found = own(*given)
        if flushes:
            device.run(*flushes)
            flushes.clear()
        return found

    with monkeypatch.context() as patch:
        patch.setattr(owner, name, flushed)
        done = device.reconcile(WANTED)
    assert not flushes
    if done.lease_lost:
        assert "table netdev halb_lease was deleted" in done.drift
    last = device.reconcile(WANTED)
    assert done.lease_lost or last.lease_lost
    assert not last.unfit
    mended = device.run("nft", "-s", "list", "ruleset"), device.run("ip", "address")
    assert words(mended) == words(whole)
    again = device.reconcile(WANTED)
    assert not again.changed
    assert not again.drift
