"""What happens to a Site of :mod:`lives`: one act after the other, each a line of text.

``weight gw2 3``, ``crash primary``, ``settle``: so a history can be run again, and made shorter.
"""

from __future__ import annotations

import time
from contextlib import suppress

from halbctl.lab.site import START_TIMEOUT, agreed
from protocol.errors import HalbError
from tests.soak.holder import RENEW
from tests.soak.mishaps import Mishaps


class Acts(Mishaps):
    """Carries acts out; what they are called is the name of a method."""

    def run(self, line: str) -> None:
        """Carry out one."""
        name, *words = line.split()
        self._note("act", name, " ".join(words))
        getattr(self, name.replace("-", "_"))(*words)

    def pause(self, seconds: str) -> None:
        time.sleep(float(seconds))

    def settle(self) -> None:
        """Wait until the devices that run agree, and know all connections."""
        with suppress(HalbError):
            self._site.wait("the devices agree", self._agreed, START_TIMEOUT)

    def _agreed(self) -> bool:
        running = [name for name in self._stage.devices if self._site.service(name).state == "runs"]
        told = [self._site.virtual_server(name) for name in running if name not in self.away]
        primaries = {str((each["primary"], each["term"])) for each in told}
        fit = all(
            device["eligible"] or device["name"] in self.away or "drained" in device["reason"]
            for each in told
            for device in each["devices"]
            if device["role"] != "witness"
        )
        return fit and len(primaries) == 1 and all(each["primary"] for each in told)

    def renew(self) -> None:
        """Some connections end, and others begin."""
        self._stage.tell_client(RENEW)

    def quiet(self) -> None:
        """Everything that fails is well again, and settled."""
        for gateway in list(self.afflicted):
            self.recovers(gateway)
        self.back()
        with suppress(HalbError):
            self._site.wait("all is in order", self._in_order, 2 * START_TIMEOUT)
        self.settle()

    def _in_order(self) -> bool:
        primary = self._site.virtual_server(self._site.primary())
        up = all(g["state"] in ("up", "draining", "disabled") for g in primary["gateways"])
        return up and agreed(self._site)
