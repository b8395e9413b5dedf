"""The container image: what goes into it, and how its agent comes to its capabilities."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENTRYPOINT = ROOT / "packaging" / "container-entrypoint"
DOCKERFILE = (ROOT / "Dockerfile").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
COPIED = [
    source
    for line in DOCKERFILE.splitlines()
    if line.startswith("COPY ") and "--from=" not in line
    for source in line.split()[1:-1]
]
FINAL = {"setuid", "setgid", "setpcap"}
"""What the entry point gives up last."""
REPORT = """#!/bin/sh
echo "${0##*/}" "$@"
"""


@pytest.mark.parametrize("source", COPIED)
def test_what_is_copied_is_there_and_let_in(source: str) -> None:
    assert (ROOT / source).exists()
    assert f"!{source.split('/')[0]}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_all_that_the_wheel_is_made_of_is_copied() -> None:
    project = PROJECT["project"]
    wheel = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *project["license-files"], project["readme"], "pyproject.toml"}
    assert needed <= set(COPIED)


def test_both_stages_have_one_python_that_halb_runs_on() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)
    assert len(set(bases)) == 1
    minor = re.search(r"python:(3\.\d+)-", bases[0])
    assert minor
    assert f"Programming Language :: Python :: {minor[1]}" in PROJECT["project"]["classifiers"]


def test_nothing_is_installed_whose_hash_is_not_known() -> None:
    """With build isolation pip would fetch whatever hatchling is the newest."""
    assert "--no-build-isolation" in DOCKERFILE
    installs = [line for line in DOCKERFILE.splitlines() if "pip " in line and "-r " in line]
    assert installs
    assert all("--require-hashes" in line for line in installs)


def test_a_new_release_is_never_left_out_for_a_cached_step() -> None:
    """buildah 1.28, of Debian 12, keeps a RUN whose mounted files have changed."""
    assert "--mount" not in DOCKERFILE


def test_image_and_unit_give_the_same_capabilities() -> None:
    unit = (ROOT / "packaging" / "halb-agent.service").read_text()
    ambient = re.search(r"^AmbientCapabilities=(.*)$", unit, re.MULTILINE)
    wanted = re.search(r'^wanted="(.*)"$', ENTRYPOINT.read_text(), re.MULTILINE)
    assert ambient
    assert wanted
    in_image = {f"CAP_{each.partition(':')[2].upper()}" for each in wanted[1].split()}
    assert in_image == set(ambient[1].split())


@pytest.fixture
def programs(tmp_path: Path) -> str:
    """A search path on which what the entry point starts only says how it was started."""
    for name in ("setpriv", "halb-agent"):
        (tmp_path / name).write_text(REPORT)
    (tmp_path / "stat").write_text("#!/bin/sh\necho halb\n")
    for each in tmp_path.iterdir():
        each.chmod(0o755)
    return f"{tmp_path}:/usr/sbin:/usr/bin:/sbin:/bin"


def started(held: set[str], programs: str) -> subprocess.CompletedProcess[str]:
    """The entry point in a container that was given these capabilities."""
    bounding = ",".join(["-all", *(f"+{each}" for each in sorted(held))])
    command = ["setpriv", f"--bounding-set={bounding}", "--inh-caps=-all"]
    inside = ["env", f"PATH={programs}", str(ENTRYPOINT), "--name", "a"]
    return subprocess.run([*command, *inside], capture_output=True, text=True, check=False)


@pytest.mark.kernel
@pytest.mark.parametrize("lacking", [set(), {"sys_nice"}, {"net_admin", "net_raw"}])
def test_the_agent_gets_what_the_container_was_given_of_it(
    lacking: set[str], programs: str
) -> None:
    """And starts without the rest: it says itself what it lacks, and a witness needs none."""
    given = {"net_admin", "net_raw", "ipc_lock", "sys_nice"} - lacking
    done = started(given | FINAL | {"chown"}, programs)
    assert done.stderr == ""
    name, *arguments = done.stdout.split()
    assert name == "setpriv"
    assert arguments[-3:] == ["halb-agent", "--name", "a"]
    for flag in ("--inh-caps=", "--ambient-caps=", "--bounding-set="):
        value = next(each for each in arguments if each.startswith(flag))
        assert set(value.removeprefix(flag).split(",")) == {"-all", *(f"+{each}" for each in given)}
    assert {"--reuid=halb", "--regid=halb", "--no-new-privs"} <= set(arguments)


@pytest.mark.kernel
@pytest.mark.parametrize("lacking", sorted(FINAL))
def test_a_container_that_cannot_change_its_user_is_told_what_it_needs(
    lacking: str, programs: str
) -> None:
    done = started({"net_admin", "net_raw"} | (FINAL - {lacking}), programs)
    assert done.returncode == 1
    assert done.stdout == ""
    assert lacking.upper() in done.stderr
