"""What the kernel knows of flows, cut into what each secondary is told; runs in a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.flowstream import Chunk, chunks
from agent.flowtable import FlowTable

Found = Mapping[frozenset[bytes], tuple[Chunk, ...]]
"""By the VIPs that a secondary is told of."""


def changes(
    table: FlowTable, vips: frozenset[bytes], shares: Iterable[frozenset[bytes]], *, whole: bool
) -> Found | None:
    """What changed, for each of ``shares``; None if something was missed.

    ``whole`` as in :meth:`FlowTable.changes`.
    """
    found = table.changes(vips, whole=whole)
    if found.missed:
        return None
    return {share: chunks(found.begun.values(), found.ended, share) for share in shares}


def everything(table: FlowTable, vips: frozenset[bytes]) -> tuple[Chunk, ...]:
    """All flows to ``vips``."""
    return chunks(table.all(vips), (), vips)
