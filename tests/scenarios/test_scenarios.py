"""The stories that people tell about clusters, played on the simulator.

Each ``*.txt`` is a sequence of commands and what they lead to, in the manner of
etcd's raft. ``HALB_REWRITE=1 scripts/test tests/scenarios`` writes what happens
now; read the difference before you keep it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.commands import COMMANDS, begin
from tests.scenarios.stage import Story

FOLDER = Path(__file__).parent
RULE = "----"


def played(text: str) -> str:
    """The scenario with what its commands lead to, in place of what it says."""
    story: Story | None = None
    blocks: list[str] = []
    for block in text.strip().split("\n\n"):
        commands, found, _ = block.partition(f"\n{RULE}")
        if not found:
            blocks.append(block)  # a comment
            continue
        for line in commands.splitlines():
            if line.startswith("#"):
                continue
            words, options = _parsed(line)
            if story is None:
                story = begin(words, options)
            else:
                COMMANDS[words[0]](story, words[1:], options)
        assert story is not None
        story.look()
        blocks.append("\n".join([commands, RULE, *story.end()]))
    return "\n\n".join(blocks) + "\n"


def _parsed(line: str) -> tuple[list[str], dict[str, str]]:
    words = [word for word in line.split() if "=" not in word]
    return words, dict(word.split("=", 1) for word in line.split() if "=" in word)


@pytest.mark.parametrize("file", sorted(FOLDER.glob("*.txt")), ids=lambda file: file.stem)
def test_the_story_goes_as_told(file: Path) -> None:
    told = file.read_text()
    happens = played(told)
    if os.environ.get("HALB_REWRITE"):
        file.write_text(happens)
    else:
        assert happens == told
    assert "BROKEN" not in happens


def test_a_story_that_is_told_wrong_fails() -> None:
    told = "site\n----\nb answers for 10.77.0.100\n"
    assert played(told) == "site\n----\na answers for 10.77.0.100\n"
