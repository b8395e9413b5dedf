"""A Site as an export spells it."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings

from protocol.document import parse_site
from protocol.rendering import canonical, render_site
from tests.unit.paris import site
from tests.unit.test_document import sites


@settings(deadline=None)
@given(sites())
def test_what_means_the_same_is_spelled_as_it_is_exported(data: dict[str, Any]) -> None:
    exported = parse_site(render_site(site(*data["virtual_servers"]))).virtual_servers
    for written, present in zip(parse_site(data).virtual_servers, exported, strict=True):
        assert canonical(written, present) == present
        assert canonical(present, present) == present
