"""Writes the corpus of the present protocol version: ``scripts/record-wire [--force]``.

A recorded version is history: it is written again only before its first release.
"""

from __future__ import annotations

import sys
from hashlib import sha256
from pathlib import Path

from protocol.messages import PROTOCOL_MAX
from tests.wire.samples import samples

FOLDER = Path(__file__).parent
MANIFEST = "MANIFEST"
WIDTH = 96
"""Hex digits per line."""


def record(version: int, *, force: bool) -> int:
    folder = FOLDER / f"v{version}"
    if folder.exists() and not force:
        sys.stderr.write(f"{folder} exists: what was released is not recorded again\n")
        return 1
    folder.mkdir(exist_ok=True)
    for old in folder.glob("*.hex"):
        old.unlink()
    lines = []
    for name, data in samples():
        text = data.hex()
        rows = [text[i : i + WIDTH] for i in range(0, len(text), WIDTH)]
        (folder / f"{name}.hex").write_text("\n".join(rows) + "\n", encoding="ascii")
        lines.append(f"{sha256(data).hexdigest()[:16]}  {name}\n")
    (folder / MANIFEST).write_text("".join(lines), encoding="ascii")
    sys.stderr.write(f"{len(lines)} samples in {folder}\n")
    return 0


if __name__ == "__main__":
    sys.exit(record(PROTOCOL_MAX, force="--force" in sys.argv[1:]))
