"""The simulator's verdict on the core: no invariant breaks in hundreds of bad days."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from protocol.timing import MILLISECOND, SECOND, Profile, Timing
from tests.sim import faults, liveness, network, operators
from tests.sim.run import plan, quiet_world, run_seed, takeover
from tests.sim.site import Setup, group_id
from tests.sim.world import World

SEEDS = 120
BLOCKS = 6
SAFETY_NS = 10 * SECOND

ROOT = Path(__file__).parents[2]


def hold(seeds: range, devices: int, safety_ns: int) -> Counter[str]:
    """Run the seeds; fail with the command that replays the first broken one."""
    seen: Counter[str] = Counter()
    for seed in seeds:
        result = run_seed(seed, devices, safety_ns)
        seconds = safety_ns // SECOND
        replay = f"scripts/sim --replay {seed} --devices {devices} --seconds {seconds}"
        assert result.ok, f"{result.style}: {result.violations[0]}\n{replay}"
        seen += result.seen
    return seen


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_invariant_breaks_with_three_devices(block: int) -> None:
    size = SEEDS // BLOCKS
    seen = hold(range(block * size, (block + 1) * size), 3, SAFETY_NS)
    for state in SOMETIMES:
        assert seen[state], f"no seed of this block saw {state!r}: the faults are too tame"


def test_nothing_fails_once_everything_is_to_be_healed() -> None:
    for seed in range(200):
        _, planned = plan(seed, 5, SAFETY_NS)
        assert all(fault.at < SAFETY_NS for fault in planned)


SOMETIMES = (
    "acquire",
    "release",
    "lame",
    "hand-over",
    "flush without end",
    "start",
    "event handover-aborted",
    "would not: HEARS_PRIMARY",
    "would not: STARTING",
    "would not: STALE_CONFIG",
    "refused: PROMISED",
    "propose: done",
    "promote: done",
)
"""What every twenty seeds must visit, lest the faults prove nothing."""


def test_no_invariant_breaks_where_rare_faults_are_common() -> None:
    seen: Counter[str] = Counter()
    for seed in range(7000, 7052):
        planned = faults.drawn(faults.RARE, Random(seed), 3, SECOND, SAFETY_NS)
        result = run_seed(seed, 3, SAFETY_NS, schedule=planned)
        assert result.ok, f"seed {seed}: {result.violations[0]}"
        seen += result.seen
    for state in SELDOM:
        assert seen[state], f"no seed saw {state!r}: the faults are too tame"


SELDOM = (
    "device paused",
    "event paused",
    "pause noticed late",
    "two owners after a pause",
    "ballots lost",
    "refused: DISK",
    "would not: DISK",
    "local changes",
    "conflict: local",
    "conflict: dropped",
    "two releases at once",
    "the Site speaks a newer version",
    "tombstones collected",
    "propose: NoQuorum",
    "propose: NotCommitted",
    "propose: TimedOut",
)
"""What these seeds must visit among them."""


def test_no_invariant_breaks_with_five_devices() -> None:
    hold(range(1000, 1006), 5, SAFETY_NS)


@pytest.mark.parametrize("devices", [1, 2, 4])
def test_no_invariant_breaks_in_sites_of_other_sizes(devices: int) -> None:
    hold(range(2000, 2008), devices, SAFETY_NS)


def test_same_seed_is_the_same_history_whatever_the_hash_seed() -> None:
    script = "from tests.sim.run import run_seed as r; print(r(7, 3, 5 * 10**9).hash)"
    hashes = set()
    for hash_seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", script]
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True
        )
        hashes.add(done.stdout)
    assert len(hashes) == 1


@pytest.mark.parametrize("profile", [Profile.NORMAL, Profile.FAST])
def test_crashed_primary_is_replaced_within_three_and_a_half_intervals(profile: Profile) -> None:
    limit = Timing.of(profile).interval * 7 // 2
    for seed in range(20):
        gap = takeover(seed, Setup(profiles=(profile,)))
        assert gap is not None, f"seed {seed}: nobody took over"
        assert gap <= limit, f"seed {seed}: {gap / MILLISECOND:.0f} ms"


@pytest.mark.parametrize("devices", [2, 3, 5])
def test_planned_move_leaves_no_gap(devices: int) -> None:
    for seed in range(10):
        world = quiet_world(seed, Setup(devices=devices))
        (holder,) = world.announcers(world.first_vip)
        successor = (holder + 1) % devices
        began = world.now
        operators.promote(world, (holder + 2) % devices, 0, successor)
        world.run_for(SECOND)
        assert not world.checker.violations
        assert world.announcers(world.first_vip) == [successor]
        gaps = [gap for _, at, gap, _ in world.checker.leases.gaps if at >= began]
        assert max(gaps) <= 20 * MILLISECOND


def test_clean_stop_hands_over_without_a_gap() -> None:
    for seed in range(10):
        world = quiet_world(seed, Setup(profiles=(Profile.NORMAL, Profile.FAST)))
        (holder,) = world.announcers(world.first_vip)
        began = world.now
        world.stop(holder)
        world.run_for(SECOND)
        assert not world.checker.violations
        assert world.running(holder) is None, "the agent has not stopped"
        assert world.announcers(world.first_vip) not in ([], [holder])
        gaps = [gap for _, at, gap, _ in world.checker.leases.gaps if at >= began]
        assert max(gaps) <= 20 * MILLISECOND


@pytest.mark.parametrize("loss", [0.0, 0.05])
def test_nothing_moves_without_a_fault(loss: float) -> None:
    """S14 and L8: two simulated minutes, also at 5 % loss, and not one release."""
    world = quiet_world(5, Setup(profiles=(Profile.NORMAL, Profile.FAST)))
    before = (world.checker.seen["acquire"], world.checker.seen["release"])
    world.network.quality = network.Quality(loss=loss)
    world.run_for(120 * SECOND)
    assert not world.checker.violations
    assert (world.checker.seen["acquire"], world.checker.seen["release"]) == before


def test_a_returning_device_moves_nothing() -> None:
    """PreVote: one that was cut off asks before it disturbs; and it takes nothing back."""
    for seed in range(5):
        world = quiet_world(seed, Setup())
        (holder,) = world.announcers(world.first_vip)
        acquired = world.checker.seen["acquire"]
        other = (holder + 1) % 3
        for _ in range(3):
            world.network.partition(world.now, [other])
            world.run_for(2 * SECOND)
            world.network.heal_all(world.now, range(3))
            world.run_for(2 * SECOND)
        assert not world.checker.violations
        assert world.announcers(world.first_vip) == [holder]
        assert world.checker.seen["acquire"] == acquired


def test_minority_never_serves() -> None:
    """S6: without a majority the VIP is gone within one kernel lease, and stays so."""
    world = quiet_world(3, Setup())
    (holder,) = world.announcers(world.first_vip)
    for index in range(3):
        if index != holder:
            world.crash(index)
    world.run_for(Timing.of(Profile.NORMAL).step_down)
    assert world.announcers(world.first_vip) == []
    world.run_for(5 * SECOND)
    assert world.announcers(world.first_vip) == []
    assert not world.checker.violations


def test_whole_site_comes_back_after_a_power_cut() -> None:
    for seed in range(10):
        world = quiet_world(seed, Setup(devices=3))
        for index in range(3):
            world.crash(index)
        world.run_for(SECOND)
        world.start_all()
        liveness.check(world, [0, 1, 2])
        assert not world.checker.violations, world.checker.violations[0]


def test_drained_primary_hands_over_and_takes_nothing_back() -> None:
    world = quiet_world(1, Setup())
    (holder,) = world.announcers(world.first_vip)
    drained = operators.drain(world, (holder + 1) % 3, holder)
    world.run_for(2 * SECOND)
    assert operators.succeeded(world, drained)
    (successor,) = world.announcers(world.first_vip)
    assert successor != holder
    world.crash(successor)
    world.run_for(2 * SECOND)
    assert world.announcers(world.first_vip) not in ([], [holder], [successor])
    assert not world.checker.violations


@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_committed_changes_survive_every_single_crash(loss: float) -> None:
    """S11: an acknowledged change is there after any one device is gone for good."""
    for victim in range(3):
        world = quiet_world(victim, Setup())
        world.network.quality = network.Quality(loss=loss)
        random = Random(victim)
        requests = [
            operators.propose(world, index % 3, operators.random_token(random))
            for index in range(9)
        ]
        world.run_for(60 * MILLISECOND)
        done = [r for r in requests if r and operators.succeeded(world, r)]
        world.crash(victim)
        world.run_for(8 * SECOND)
        if not loss:
            assert done, "nothing was committed within 60 ms"
        world.checker.configs.finish()
        assert not world.checker.violations, world.checker.violations[0]


def test_unfit_primary_hands_over() -> None:
    world: World = quiet_world(2, Setup())
    (holder,) = world.announcers(world.first_vip)
    world.set_unfit(holder, (group_id(0),))
    world.run_for(SECOND)
    assert world.announcers(world.first_vip) not in ([], [holder])
    assert not world.checker.violations
