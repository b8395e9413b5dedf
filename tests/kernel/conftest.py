"""What several files of tests on a real kernel begin with."""

from __future__ import annotations

from collections.abc import Generator, Iterator

import pytest

from halbctl.lab.measure import Stage
from halbctl.lab.namespaces import Network
from halbctl.lab.site import Site
from tests.kernel import tracked
from tests.kernel.evidence import tell
from tests.kernel.farm import Farm, fallow, farmland
from tests.kernel.namespaces import Device, Inside, hosts
from tests.kernel.sites import stage
from tests.kernel.tracked import Tracked, paired


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtest_call(item: pytest.Function) -> Generator[None]:
    """Where a test fails that shares a Site with others, the devices tell what they know."""
    try:
        yield
    except BaseException:
        for shared in item.funcargs.values():
            if isinstance(shared, Stage | Site):
                tell(shared.site if isinstance(shared, Stage) else shared)
                break
        raise


@pytest.fixture
def device() -> Iterator[Device]:
    """One with nothing but its data plane, and nobody else."""
    with hosts("a") as network:
        device = Device(network, "a")
        yield device
        device.close()


@pytest.fixture(scope="module")
def land() -> Iterator[tuple[Device, Inside]]:
    """A device and a client among gateways."""
    with farmland() as made:
        yield made


@pytest.fixture
def farm(land: tuple[Device, Inside]) -> Iterator[Farm]:
    """The land without anything that a test before left on it."""
    with fallow(*land) as made:
        yield made


@pytest.fixture(scope="module")
def on_stage(site: Site) -> Iterator[Stage]:
    """Instruments in the file's own Site."""
    with stage(site) as made:
        yield made


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Two devices that may be told of each other's flows, a client and gateways."""
    with tracked.farm() as built:
        yield built


@pytest.fixture
def pair(network: Network) -> Iterator[tuple[Tracked, Tracked]]:
    """Device ``a``, which has the VIPs, and ``b``, which is told of its flows."""
    with paired(network) as made:
        yield made
