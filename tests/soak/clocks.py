"""People's clocks of the soak's devices, set forward and backward: see ``shifted``."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.soak.shifted.sitecustomize import FOLDER

NANOSECONDS = 1_000_000_000


class Clocks:
    """One file for each device."""

    def __init__(self, folder: Path, devices: Iterable[str]) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for device in devices:
            self.shift(device, 0)

    def shift(self, device: str, seconds: int) -> None:
        """The device's clock is so far ahead from now on, or behind."""
        file = self._folder / device
        # In place: agents have it mapped.
        fd = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, struct.pack("=q", seconds * NANOSECONDS))
        finally:
            os.close(fd)

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Processes that are started meanwhile read them."""
        shifted = str(Path(__file__).parent / "shifted")
        before = {name: os.environ.get(name) for name in (FOLDER, "PYTHONPATH")}
        path = os.pathsep.join(filter(None, [shifted, before["PYTHONPATH"]]))
        os.environ.update({FOLDER: str(self._folder), "PYTHONPATH": path})
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
