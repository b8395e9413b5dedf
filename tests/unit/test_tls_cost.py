"""What a handshake costs is not for a gateway to say: it takes place in the loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent import certificates as settings
from agent.probes import Verdict
from protocol.objects import Check
from tests.unit.certificates import server_context, with_own_groups
from tests.unit.listening import run
from tests.unit.test_talks import ask, is_silent, serving


@pytest.mark.parametrize("verify", [False, True])
def test_a_group_of_the_gateways_own_is_not_computed_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verify: bool
) -> None:
    context, authority = server_context(tmp_path, "rdp.example", 90)
    with_own_groups(context, tmp_path, 4096)
    strict = settings.strict()
    strict.load_verify_locations(authority)
    monkeypatch.setattr(settings, "strict", lambda: strict)

    async def test() -> None:
        check = Check(type="tls", name="rdp.example", verify=verify, timeout=5)
        async with serving(is_silent, context) as port:
            answer = await ask(port, check)
        assert answer.verdict is Verdict.BAD

    run(test())
