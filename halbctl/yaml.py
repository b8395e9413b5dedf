"""Documents that people write: read with care, written in the form that they would use."""

from __future__ import annotations

import re
import sys
from typing import Any

import yaml

from protocol.errors import HalbError, InvalidInput
from protocol.shown import shown

MAX_BYTES = 1024 * 1024
MAX_NODES = 200_000
"""Values in one document, each alias counted as all that it stands for."""
MAX_DEPTH = 32


def read(path: str) -> Any:
    """The content of the YAML (or JSON) file at ``path``; ``-`` is stdin."""
    name = "<stdin>" if path == "-" else path
    try:
        source = sys.stdin.fileno() if path == "-" else path
        with open(source, "rb", closefd=path != "-") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise InvalidInput(
            f"{name}: {error.strerror}", "Name a file to read, or - for stdin."
        ) from error
    if len(data) > MAX_BYTES:
        raise InvalidInput(
            f"{name} is larger than 1 MiB", "Split the Site, or remove what does not belong to it."
        )
    return parse(data, name)


def parse(data: bytes | str, name: str) -> Any:
    """The one document in ``data``; raise InvalidInput with line and column."""
    try:
        return yaml.load(data, Loader=_Loader)  # noqa: S506 (a SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _at(name, error) from error
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise InvalidInput(f"{name} is not YAML: {reason}", "Save it as UTF-8 text.") from error
    except ValueError as error:
        raise InvalidInput(f"{name}: {error}", "Quote the value if it is meant as text.") from error


def _at(name: str, error: yaml.MarkedYAMLError) -> HalbError:
    mark = error.problem_mark or error.context_mark
    place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    problem = ": ".join(part for part in (error.context, error.problem) if part)
    return InvalidInput(f"{name}{place}: {problem}", error.note or "Correct the YAML there.")


_BOOL, _DATE = "tag:yaml.org,2002:bool", "tag:yaml.org,2002:timestamp"
_INT = "tag:yaml.org,2002:int"
_PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("str", "map", "seq", "int", "float", "null")}
_PLAIN.add(_BOOL)


class _Loader(yaml.SafeLoader):
    """Plain data only; bounded, and without keys that silently replace each other.

    As in YAML 1.2, ``true`` and ``false`` alone are booleans, and there are no dates and
    no numbers to the base of 60: a device may be named ``no``, a Virtual Server
    ``2025-01-01``, and 52:54:00:12:34:56 is a hardware address.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_BOOL, _DATE, _INT)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    yaml_constructors = {
        tag: construct
        for tag, construct in yaml.SafeLoader.yaml_constructors.items()
        if tag is None or tag in _PLAIN
    }

    def __init__(self, stream: Any) -> None:
        super().__init__(stream)
        self._nodes = 0
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self._mark()
            node = super().compose_node(parent, index)
            if id(node) not in self._sizes:
                raise yaml.MarkedYAMLError(None, None, "an alias within what it stands for", mark)
            self._count(self._sizes[id(node)], mark)
            return node
        mark = self._mark()
        self._depth += 1
        if self._depth > MAX_DEPTH:
            problem = f"nested deeper than {MAX_DEPTH} levels"
            raise yaml.MarkedYAMLError(None, None, problem, mark)
        before = self._nodes
        self._count(1, mark)
        node = super().compose_node(parent, index)
        self._sizes[id(node)] = self._nodes - before
        self._depth -= 1
        return node

    def _mark(self) -> Any:
        return self.peek_event().start_mark  # type: ignore[no-untyped-call]

    def _count(self, nodes: int, mark: Any) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            problem = f"more than {MAX_NODES} values, aliases counted in full"
            raise yaml.MarkedYAMLError(None, None, problem, mark)

    def construct_object(self, node: Any, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (KeyError, IndexError, TypeError):
            # What is tagged by hand need not look as its tag says.
            problem = f"{shown(node.value)} is not what the tag before it says"
            raise yaml.MarkedYAMLError(None, None, problem, node.start_mark) from None

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    problem = f"the key {key.value!r} is here twice"
                    raise yaml.MarkedYAMLError(None, None, problem, key.start_mark)
                seen.add(key.value)
        return super().construct_mapping(node, deep)

    def construct_scalar(self, node: Any) -> Any:
        value = super().construct_scalar(node)
        if not isinstance(value, str) or value.isascii():
            return value
        try:
            # JSON writes what is beyond 16 bits as two halves.
            return value.encode("utf-16", "surrogatepass").decode("utf-16")
        except UnicodeDecodeError:
            problem = "half of a character, without its other half"
            raise yaml.MarkedYAMLError(None, None, problem, node.start_mark) from None


_NUMBER = re.compile(r"^[-+]?(?:0b[01_]+|0x[0-9a-fA-F_]+|0[0-7_]*|[1-9][0-9_]*)$")
_Loader.add_implicit_resolver(_BOOL, re.compile("^(?:true|false)$"), ["t", "f"])
_Loader.add_implicit_resolver(_INT, _NUMBER, list("-+0123456789"))


_BREAKS = re.compile("[\x85\u2028\u2029]")
"""What YAML takes for the end of a line, and folds, where it is not escaped."""


class _Dumper(yaml.SafeDumper):
    def represent_str(self, data: str) -> Any:
        style = '"' if _BREAKS.search(data) else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)

    def ignore_aliases(self, data: Any) -> bool:
        return True

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)


_Dumper.add_representer(str, _Dumper.represent_str)


def dump(value: Any) -> str:
    """``value`` as YAML: small lists and mappings on one line, in the order given."""
    return yaml.dump(
        value,
        Dumper=_Dumper,
        default_flow_style=None,
        sort_keys=False,
        allow_unicode=True,
        width=100,
    )
