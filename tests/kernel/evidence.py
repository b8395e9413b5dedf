"""What the devices of a Site say, printed where a test of it fails."""

from __future__ import annotations

import subprocess

from halbctl.lab.site import Site
from protocol.errors import HalbError

_QUESTIONS = (("status",), ("history", "--limit", "40"))
_LOG_LINES = 30


def tell(site: Site) -> None:
    """Print each device's status, history and the end of its log."""
    for host in site.plan.device_hosts:
        service = site.service(host.name)
        print(f"--- {host.name}: its agent {service.state}")
        if service.state == "runs":
            for question in _QUESTIONS:
                print(_answer(site, host.name, *question))
        print(service.tail(_LOG_LINES))


def _answer(site: Site, device: str, *question: str) -> str:
    try:
        done = site.halbctl(device, *question)
    except (HalbError, subprocess.TimeoutExpired) as error:
        return f"no answer to {' '.join(question)}: {error}"
    return done.output + done.errors
