"""What the documents say is true where a program can tell.

Links lead somewhere, every command, flag, exit code, JSON field, message, duration,
dependency and file is documented, and nothing is documented that does not exist.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from typer import Context

from agent import sysctl
from agent.settings import read_settings
from halbctl.app import command_line
from protocol import api, contacts, diagnosis, insight, messages, traffic
from protocol.errors import ExitCode
from protocol.timing import INTERVAL_NS, MILLISECOND, Profile, Timing
from protocol.view import Role
from tests.sim.checkers import RULES

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.glob("*.md")])
LINK = re.compile(r"\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(text: str) -> set[str]:
    """The anchors that a page's headings make, as code hosting sites form them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def dead_links(page: Path, text: str) -> Iterator[str]:
    """Relative links to files or headings that do not exist."""
    for target in LINK.findall(FENCE.sub("", text)):
        if "://" in target or target.startswith("mailto:"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists():
            yield f"{page.name}: {target}: no such file"
        elif anchor and anchor not in anchors(file.read_text(encoding="utf-8")):
            yield f"{page.name}: {target}: no such heading"


def sections(text: str, level: str = "###") -> dict[str, str]:
    """Text below each heading of a level, by heading."""
    parts = re.split(rf"^{level} (.+)$", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(text: str) -> Iterator[list[str]]:
    """Cells of every table row."""
    for line in text.splitlines():
        if line.startswith("|") and not set(line) <= set("|-: "):
            yield [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


@cache
def commands() -> dict[str, Any]:
    """Every command of halbctl by its words, such as ``vs create``."""
    root = command_line()
    context = Context(root)
    found: dict[str, Any] = {}
    for name in root.commands:
        command = root.get_command(context, name)
        below = getattr(command, "commands", None)
        if below is None:
            found[name] = command
        else:
            found |= {f"{name} {each}": below[each] for each in below}
    return found


def documented_commands() -> dict[str, str]:
    """Section of each documented command, with its heading, by its words."""
    return {
        re.sub(
            r"^halbctl | [\[A-Z-].*$", "", heading
        ): f"{heading}\n{text.split(chr(10) + '## ')[0]}"
        for heading, text in sections(read("docs/cli.md")).items()
        if heading.startswith("halbctl ")
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert not list(dead_links(page, page.read_text(encoding="utf-8")))


def test_a_dead_link_is_found() -> None:
    text = "# One\n[a](nowhere.md) [b](#one) [c](#two)\n"
    assert len(list(dead_links(DOCS / "README.md", text))) >= 1
    assert "one" in anchors(text)


def test_the_index_names_every_page() -> None:
    index = set(LINK.findall(read("docs/README.md")))
    assert {page.name for page in DOCS.glob("*.md")} - {"README.md"} <= index


def test_every_command_is_documented_and_no_other() -> None:
    assert set(documented_commands()) == set(commands())


@pytest.mark.parametrize("name", sorted(commands()))
def test_every_option_of_a_command_is_documented(name: str) -> None:
    section = documented_commands().get(name, "")
    options = {
        option
        for parameter in commands()[name].params
        if parameter.param_type_name == "option" and not parameter.hidden
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    missing = {o for o in options - {"--help", "-h"} if not re.search(rf"(?<![\w-]){o}\b", section)}
    assert not missing


@pytest.mark.parametrize("name", sorted(commands()))
def test_no_option_is_documented_that_a_command_lacks(name: str) -> None:
    params = commands()[name].params
    known = {option for p in params for option in (*p.opts, *p.secondary_opts)}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", documented_commands().get(name, "")))
    assert named <= known | {"--watch"}


def test_every_exit_code_is_documented_and_no_other() -> None:
    text = sections(read("docs/cli.md"))["Exit codes"].split("\n## ")[0]
    assert {row[0] for row in rows(text)} - {"code"} == {str(int(code)) for code in ExitCode}


@pytest.mark.parametrize(
    "struct",
    [
        api.Status, api.VirtualServerStatus, api.VirtualServerDevice, api.DeviceStatus,
        api.ListenerStatus, api.GatewayStatus, api.HistoryEntry, api.TokenCreated,
        api.TokenInfo, api.VersionInfo, api.Done, insight.Explanation, insight.ExplainedDevice,
        insight.Traced, insight.ElectionTold, insight.Matrix, insight.MatrixLink,
        traffic.Counters, traffic.VirtualServerTraffic, traffic.ListenerTraffic,
        traffic.GatewayTraffic, traffic.Traffic, traffic.Metrics,
        diagnosis.Diagnosis, diagnosis.Finding, contacts.OperatorInfo,
    ],
)  # fmt: skip
def test_every_json_field_is_documented(struct: type[msgspec.Struct]) -> None:
    text = read("docs/cli.md")
    assert not [name for name in struct.__struct_fields__ if f"`{name}`" not in text]


def test_every_message_role_and_profile_is_documented() -> None:
    text = read("docs/protocol.md")
    names = [message.__name__ for message in get_args(messages.Message)]
    names += [role.name for role in Role]
    assert not [name for name in names if f"`{name}`" not in text]


def test_the_durations_in_the_page_are_those_of_the_code() -> None:
    timing = Timing.of(Profile.NORMAL)
    tables = list(rows(read("docs/protocol.md")))
    described = {row[0].strip("`"): row[1:3] for row in tables if len(row) == 4}
    for name in Timing.__dataclass_fields__:
        value = getattr(timing, name)
        factor, normal = described[name]
        assert float(factor) == value / timing.interval, name
        assert normal == f"{value // MILLISECOND} ms", name
    profiles = [row for row in tables if len(row) == 2 and row[1].endswith(" ms")]
    assert {row[0].split("`")[1]: row[1] for row in profiles} == {
        profile.value: f"{ns // MILLISECOND} ms" for profile, ns in INTERVAL_NS.items()
    }


def test_every_flag_of_the_agent_is_documented_and_no_other(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        read_settings(["--help"])
    flags = set(re.findall(r"--[a-z-]+", capsys.readouterr().out)) - {"--help"}
    tables = rows(read("docs/agent.md"))
    assert {row[0].split()[0].strip("`") for row in tables if row[0].startswith("`--")} == flags


def test_every_kernel_setting_is_documented() -> None:
    text = read("docs/data-plane.md")
    names = [path.rpartition("/")[2] for path, _ in sysctl.FORWARDING]
    assert not [name for name in names if name not in text]


def test_every_rule_of_the_simulator_is_documented_and_no_other() -> None:
    tables = rows(read("docs/testing.md"))
    assert {row[0] for row in tables if re.fullmatch(r"[SL]\d+", row[0])} == set(RULES)


def test_every_dependency_has_its_line_and_no_other() -> None:
    project = tomllib.loads(read("pyproject.toml"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {re.split(r"[<>=!~ ]", requirement)[0] for requirement in wanted}
    tables = rows(read("docs/dependencies.md"))
    assert {row[0].strip("`") for row in tables if row[0].startswith("`")} == names


def test_the_map_names_every_room_and_no_other() -> None:
    text = read("ARCHITECTURE.md")
    named = set(re.findall(r"`((?:protocol|agent|halbctl)/[\w/]+\.py)`", text))
    rooms = {
        path.relative_to(ROOT).as_posix()
        for package in ("protocol", "agent", "halbctl")
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    assert named == rooms
