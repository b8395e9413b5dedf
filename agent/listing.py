"""A table as nft lists it, cut into its blocks, so that two listings can be compared.

Pure. The kernel returns the elements of a set in no stable order; they are
sorted, so that equal tables have equal blocks. What packets themselves put
into a set, or into one with timeouts, is no part of that.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping

_BLOCK = re.compile(r"^\t(?=[a-z]+ \S+ \{$)", re.MULTILINE)
_OF_PACKETS = re.compile(r"^\t\tflags .*(dynamic|timeout)", re.MULTILINE)
_COUNT = re.compile(r"\s# count \d+$", re.MULTILINE)
"""How many elements a set with a size has, as newer releases of nft (1.1.7 does) remark."""
_ELEMENTS = re.compile(r"^\t\telements = \{(.*?)\}$", re.DOTALL | re.MULTILINE)


def blocks(listing: str) -> dict[str, str]:
    """A digest of each block of ``nft list table``, by its heading such as ``chain guard``."""
    found: dict[str, str] = {}
    for block in _cut(listing):
        heading, _, body = block.partition(" {\n")
        found[heading] = hashlib.blake2b(_sorted(body).encode(), digest_size=12).hexdigest()
    return found


def _cut(listing: str) -> Iterator[str]:
    """The blocks, one by one: cutting megabytes at once would hold up other threads."""
    begins = None
    for found in _BLOCK.finditer(listing):
        if begins is not None:
            yield listing[begins : found.start()]
        begins = found.end()
    if begins is not None:
        yield listing[begins:]


def _sorted(body: str) -> str:
    body = _COUNT.sub("", body[: body.rindex("\t}")].rstrip())
    if _OF_PACKETS.search(body):
        return _ELEMENTS.sub("", body).rstrip()
    return _ELEMENTS.sub(lambda m: ",".join(sorted(e.strip() for e in m[1].split(","))), body)


def difference(
    table: str, expected: Mapping[str, str], actual: Mapping[str, str]
) -> tuple[str, ...]:
    """What differs in ``table``, in words for people: empty if nothing does."""
    if expected and not actual:
        return (f"{table} was deleted",)
    missing = [f"{table}: {name} was deleted" for name in expected if name not in actual]
    foreign = [f"{table}: {name} was added" for name in actual if name not in expected]
    altered = [
        f"{table}: {name} was altered"
        for name, digest in expected.items()
        if name in actual and actual[name] != digest
    ]
    return (*missing, *altered, *foreign)


def elements(listing: str) -> frozenset[str]:
    """The elements of a plain set, from ``nft list set``."""
    found = _ELEMENTS.search(listing)
    return frozenset(e.strip() for e in found[1].split(",")) if found else frozenset()
