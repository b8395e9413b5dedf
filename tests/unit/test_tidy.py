"""The house is tidy: sizes, docstrings, words, and nothing that belongs to one machine.

STYLE.md gives the reasons. Each rule is a function from a file's text to
complaints that name the line, and is tested itself on small bad samples.
"""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("protocol/", "agent/", "halbctl/")
FILE_LINES = 400
FUNCTION_LINES = 60
METHOD_LINES = 15
"""A public method longer than this has a docstring; a shorter one speaks for itself."""
COLUMNS = 100

Rule = Callable[[str, str], Iterator[str]]
"""From (path, text) to complaints."""

BANNER = re.compile(r"^\s*#.*([-=#*~_])\1{4}")
UNFINISHED = re.compile(r"\b(TODO|FIXME|XXX)\b")
FORBIDDEN_WORDS = re.compile(
    r"\b(masters?|slaves?|(?<!build-)backends?|backup (device|host|site|agent)s?)\b", re.IGNORECASE
)
IP_LINK = re.compile(r"\blink set .*\bmaster\b")
"""That command has a word for a bridge that we do not use for anything else."""
NODE = re.compile(r"(?<![\w./`-])[Nn]odes?(?![\w.`])")
MACHINE = re.compile(
    r"(?<![\w.])/(work|root|home)/|--(extra-)?index-url|\b(pypi\.org|pythonhosted\.org"
    r"|deb\.debian\.org|archive\.ubuntu\.com)|https?://[^ \"]+/(simple|packages|pool/main)/"
)
NOT_OF_THE_PRODUCT = re.compile(r"\bissue #?\d|\b(BRIEF|DESIGN)\.md|\bresearch/", re.IGNORECASE)
NAME_THE_FORBIDDEN = ("LICENSE", "STYLE.md", "tests/unit/test_tidy.py")
"""Files that must name what the others must not."""


def too_long(path: str, text: str) -> Iterator[str]:
    """Files over 400 lines and functions over 60."""
    lines = text.count("\n")
    if lines > FILE_LINES:
        yield f"{path}:{FILE_LINES}: {lines} lines, {FILE_LINES} are allowed: two rooms?"
    for function in ast.walk(ast.parse(text)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (function.end_lineno or 0) - function.lineno + 1
            if length > FUNCTION_LINES:
                yield (
                    f"{path}:{function.lineno}: {function.name} has {length} lines,"
                    f" {FUNCTION_LINES} are allowed"
                )


def undocumented(path: str, text: str) -> Iterator[str]:
    """Modules, public classes and functions, and long public methods without a docstring."""
    module = ast.parse(text)
    if module.body and not ast.get_docstring(module):
        yield f"{path}:1: the module has no docstring"
    if path.startswith(PACKAGES):
        for line, name in _undocumented_in(module):
            yield f"{path}:{line}: {name} has no docstring"


def _undocumented_in(scope: ast.Module | ast.ClassDef) -> Iterator[tuple[int, str]]:
    for item in scope.body:
        if not isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        if item.name.startswith("_"):
            continue
        length = (item.end_lineno or 0) - item.lineno + 1
        # A method of a derived class may inherit its docstring, as `inspect.getdoc` finds it.
        exempt = isinstance(scope, ast.ClassDef) and (length <= METHOD_LINES or scope.bases)
        if not exempt and not ast.get_docstring(item):
            yield item.lineno, item.name
        if isinstance(item, ast.ClassDef):
            yield from _undocumented_in(item)


def untidy_python(path: str, text: str) -> Iterator[str]:
    """Banners."""
    yield from _matches(path, text, BANNER, "a banner")


def untidy_text(path: str, text: str) -> Iterator[str]:
    """White space at the end of lines, a missing last newline, unfinished work."""
    for number, line in enumerate(text.splitlines(), 1):
        if line != line.rstrip():
            yield f"{path}:{number}: white space at the end of the line"
    if text and not text.endswith("\n"):
        yield f"{path}: no newline at the end"
    yield from _matches(path, text, UNFINISHED, "unfinished work")


def long_lines(path: str, text: str) -> Iterator[str]:
    """Lines over 100 columns in what ruff does not read."""
    for number, line in enumerate(text.splitlines(), 1):
        if len(line) > COLUMNS:
            yield f"{path}:{number}: {len(line)} columns, {COLUMNS} are allowed"


def wrong_words(path: str, text: str) -> Iterator[str]:
    """Words that this project does not use for its things."""
    yield from _matches(path, IP_LINK.sub("", text), FORBIDDEN_WORDS, "not our word")
    if path.endswith(".md"):
        yield from _matches(path, text, NODE, "a device is meant")


def not_of_the_product(path: str, text: str) -> Iterator[str]:
    """Paths of one machine, package indexes, and talk about how the work was done."""
    yield from _matches(path, text, MACHINE, "belongs to one machine")
    yield from _matches(path, text, NOT_OF_THE_PRODUCT, "speaks of the work, not of the product")


def _matches(path: str, text: str, pattern: re.Pattern[str], why: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        found = pattern.search(line)
        if found:
            yield f"{path}:{number}: {found.group().strip()!r}: {why}"


def rules_for(path: str, text: str) -> list[Rule]:
    """The rules that a file must keep."""
    rules: list[Rule] = []
    if path not in NAME_THE_FORBIDDEN:
        rules += [untidy_text, wrong_words, not_of_the_product]
    if path.endswith(".py"):
        rules += [too_long, undocumented, untidy_python]
    elif text.startswith("#!") and "python" in text.partition("\n")[0]:
        rules += [too_long, untidy_python]
    elif text.startswith("#!"):
        rules += [long_lines, untidy_python]
    return rules


@cache
def texts() -> dict[str, str]:
    """All files of the repository that are text, with uncommitted ones, but not ignored ones."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout.split("\0")  # fmt: skip
    found = {}
    for name in sorted(set(listed) - {""}):
        path = ROOT / name
        if path.is_file() and name not in ("LICENSE", "requirements.txt", "requirements-dev.txt"):
            found[name] = path.read_text(encoding="utf-8")
    return found


@pytest.mark.parametrize(
    "rule",
    [
        too_long, undocumented, untidy_python, untidy_text, long_lines, wrong_words,
        not_of_the_product,
    ],
)  # fmt: skip
def test_every_file_keeps(rule: Rule) -> None:
    complaints = [
        complaint
        for path, text in texts().items()
        if rule in rules_for(path, text)
        for complaint in rule(path, text)
    ]
    assert not complaints, "\n" + "\n".join(complaints)


def test_the_pinned_requirements_name_no_index() -> None:
    for name in ("requirements.txt", "requirements-dev.txt"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert not list(not_of_the_product(name, text))
        assert "://" not in text


LONG_FUNCTION = '"""M."""\n\n\ndef long() -> None:\n' + "    x = 1\n" * FUNCTION_LINES
BAD = [
    (too_long, "x = 1\n" * (FILE_LINES + 1)),
    (too_long, LONG_FUNCTION),
    (undocumented, "x = 1\n"),
    (undocumented, '"""M."""\ndef f(): ...\n'),
    (undocumented, '"""M."""\nclass A:\n    x = 1\n'),
    (undocumented, '"""M."""\nclass A:\n    """A."""\n    def f(self):\n' + "        x = 1\n" * 15),
    (untidy_python, "# " + "=" * 20 + "\n"),
    (untidy_python, "# " + "-" * 5 + " inputs\n"),
    (untidy_text, "x = 1 \n"),
    (untidy_text, "x = 1"),
    (untidy_text, "# TODO: later\n"),
    (long_lines, "x" * (COLUMNS + 1) + "\n"),
    (wrong_words, "the master device\n"),
    (wrong_words, "two Backends\n"),
    (wrong_words, "the backup device\n"),
    (not_of_the_product, f"cd /{'work'}/main\n"),
    (not_of_the_product, f"pip install --{'index'}-url x\n"),
    (not_of_the_product, "see https://files.pythonhosted.org/x\n"),
    (not_of_the_product, "as asked in issue 12\n"),
]


@pytest.mark.parametrize(("rule", "text"), BAD)
def test_what_breaks_a_rule_is_found(rule: Rule, text: str) -> None:
    assert list(rule("agent/sample.py", text))


def test_a_complaint_names_the_line() -> None:
    (complaint,) = wrong_words("docs/x.md", "one\ntwo nodes\n")
    assert complaint == "docs/x.md:2: 'nodes': a device is meant"


@pytest.mark.parametrize(
    "text",
    [
        '"""M."""\n\n\ndef _private(): ...\n',
        '"""M."""\n\n\nclass A:\n    """A."""\n\n    def short(self): ...\n',
        '"""M."""\n# a plain comment -- with dashes\n',
        '"""The build-backend and master_seed."""\n',
    ],
)
def test_what_keeps_the_rules_passes(text: str) -> None:
    assert not [c for rule in rules_for("agent/x.py", text) for c in rule("agent/x.py", text)]
