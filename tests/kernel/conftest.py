"""What several files of tests on a real kernel begin with."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from halbctl.lab.measure import Stage
from halbctl.lab.site import Site
from tests.kernel.farm import Farm, fallow, farmland
from tests.kernel.namespaces import Device, Inside
from tests.kernel.sites import stage


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
