"""What the operator decides about one agent: a YAML file, overruled by flags.

Each key of the file is a flag of the same name::

    name: paris-1                      # default: the host's name
    state-dir: /var/lib/halb
    address: [10.77.0.11:7480]         # default: the host's first address, port 7480
    interface: eth0                    # default: the one that has the first address
    control: /run/halb/control.sock
    checks-dir: /etc/halb/checks       # programs that checks of type exec may name
    witness: false
    no-kernel-lease: false
    no-flow-marks: false               # leave ct mark alone: for rules that copy it to packets
    log-level: info                    # debug, info, warning or error
"""

from __future__ import annotations

import argparse
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, NoReturn

import yaml

from agent.addresses import addresses as addresses_of
from protocol.addresses import check_endpoint, endpoints_clash, split_endpoint
from protocol.control import DEFAULT_CONTROL
from protocol.errors import InvalidInput
from protocol.ids import check_name
from protocol.nearest import nearest

DEFAULT_CONFIG = Path("/etc/halb/agent.yaml")
DEFAULT_STATE_DIR = Path("/var/lib/halb")
DEFAULT_CHECKS_DIR = Path("/etc/halb/checks")
DEFAULT_PORT = 7480
MAX_FILE = 64 * 1024
MAX_ADDRESSES = 2
LEVELS = ("debug", "info", "warning", "error")


@dataclass(frozen=True)
class HostAddress:
    """One of the host's own addresses (no VIP of ours)."""

    interface: str
    ip: IPv4Address | IPv6Address


@dataclass(frozen=True)
class Settings:
    """Checked settings of one agent."""

    name: str
    addresses: tuple[str, ...]
    """One or two ``IP:PORT``, canonical."""
    interface: str
    """Service interface; empty for a witness on a host where none could be found."""
    state_dir: Path = DEFAULT_STATE_DIR
    control: Path = Path(DEFAULT_CONTROL)
    checks_dir: Path = DEFAULT_CHECKS_DIR
    """Programs that health checks of type ``exec`` may name; nothing else is ever run."""
    witness: bool = False
    kernel_lease: bool = True
    flow_marks: bool = True
    """Marks of balanced flows (``ct mark``) that nobody has set carry an account's number."""
    log_level: str = "info"


def read_settings(
    arguments: Sequence[str],
    *,
    version: str = "",
    hostname: str | None = None,
    host: Sequence[HostAddress] | None = None,
) -> Settings:
    """Settings from command-line ``arguments``, the file that they name, and the host.

    Raises InvalidInput that names the key, the value and the remedy. ``hostname``
    and ``host`` (the host's addresses) are looked up where not given.
    """
    flags = vars(_parser(version).parse_args(arguments))
    explicit = flags.pop("config")
    values = {**_read_file(explicit), **flags}
    host = host_addresses() if host is None else host
    addresses = _addresses(values.get("address"), host)
    return Settings(
        name=check_name("device", _name(values.get("name"), hostname)),
        addresses=addresses,
        interface=_interface(
            values.get("interface"), addresses[0], host, bool(values.get("witness"))
        ),
        state_dir=Path(values.get("state-dir", DEFAULT_STATE_DIR)),
        control=Path(values.get("control", DEFAULT_CONTROL)),
        checks_dir=Path(values.get("checks-dir", DEFAULT_CHECKS_DIR)),
        witness=values.get("witness", False),
        kernel_lease=_kernel_lease(values.get("no-kernel-lease", False)),
        flow_marks=not values.get("no-flow-marks", False),
        log_level=values.get("log-level", "info"),
    )


def _kernel_lease(unwanted: bool) -> bool:
    if unwanted:
        raise InvalidInput(
            "no-kernel-lease is not supported in this release: nothing else keeps a hung agent"
            " from holding its VIPs",
            "Run Linux 5.18 or newer, or let this device be a --witness.",
        )
    return True


def host_addresses() -> tuple[HostAddress, ...]:
    """The operator's addresses of all interfaces, in the kernel's order."""
    return tuple(
        HostAddress(name, address.interface.ip)
        for _, name in socket.if_nameindex()
        for address in addresses_of(name)
        if not address.ours
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = message.removeprefix("unrecognized arguments: ")
        if unknown != message:
            flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
            raise InvalidInput(f"unknown flag {unknown[:60]}", nearest(unknown.split()[0], flags))
        raise InvalidInput(message, "See `halb-agent --help`.")


def _parser(version: str) -> argparse.ArgumentParser:
    parser = _Parser(
        prog="halb-agent",
        description="Runs one device of a Site: see `halbctl` for everything else.",
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--config", type=Path, default=None, help=f"file of settings (default {DEFAULT_CONFIG})")
    add("--name", help="name of the device (default: the host's name)")
    add("--state-dir", dest="state-dir", metavar="DIR", help=f"default {DEFAULT_STATE_DIR}")
    add(
        "--address",
        action="append",
        metavar="IP:PORT",
        help="listen here; give it twice for two links",
    )
    add("--interface", help="service interface (default: the one with the first address)")
    add("--control", metavar="PATH", help=f"control socket (default {DEFAULT_CONTROL})")
    add(
        "--checks-dir",
        dest="checks-dir",
        metavar="DIR",
        help=f"programs of exec checks (default {DEFAULT_CHECKS_DIR})",
    )
    add("--witness", action="store_true", help="vote, but never carry a VIP")
    add("--no-kernel-lease", dest="no-kernel-lease", action="store_true",
        help="refused in this release: a hung agent would keep its VIPs")  # fmt: skip
    add("--no-flow-marks", dest="no-flow-marks", action="store_true",
        help="leave the marks of flows alone, for rules that copy them to packets")  # fmt: skip
    add("--log-level", dest="log-level", choices=LEVELS, help="default info")
    add("--version", action="version", version=f"halb-agent {version}")
    return parser


_KINDS: dict[str, tuple[type, ...]] = {
    "name": (str,),
    "state-dir": (str,),
    "address": (str, list),
    "interface": (str,),
    "control": (str,),
    "checks-dir": (str,),
    "witness": (bool,),
    "no-kernel-lease": (bool,),
    "no-flow-marks": (bool,),
    "log-level": (str,),
}


def _read_file(explicit: Path | None) -> dict[str, Any]:
    """The file's keys and values; nothing if it is not there and nobody asked for it."""
    path = explicit or DEFAULT_CONFIG
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
    except OSError as error:
        if explicit is None and isinstance(error, FileNotFoundError):
            return {}
        raise InvalidInput(
            f"settings file {path} cannot be read: {error.strerror}",
            "Name another with --config PATH, or leave it out.",
        ) from error
    if len(data) > MAX_FILE:
        raise InvalidInput(f"settings file {path} is larger than {MAX_FILE} bytes")
    return _check_keys(path, _parse_yaml(path, data))


def _parse_yaml(path: Path, data: bytes) -> Mapping[Any, Any]:
    try:
        parsed = yaml.safe_load(data)
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, TypeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise InvalidInput(
            f"settings file {path}{place} is not YAML: {problem}", "Correct it there."
        ) from error
    if parsed is None:
        return {}
    if not isinstance(parsed, dict):
        raise InvalidInput(f"settings file {path} has no keys", "Write lines of KEY: VALUE.")
    return parsed


def _check_keys(path: Path, parsed: Mapping[Any, Any]) -> dict[str, Any]:
    for key, value in parsed.items():
        if key not in _KINDS:
            raise InvalidInput(
                f"settings file {path} has an unknown key `{str(key)[:60]}`",
                nearest(str(key), _KINDS),
            )
        if not isinstance(value, _KINDS[key]) or (value == "" and key != "interface"):
            wanted = " or ".join(_NAMES[kind] for kind in _KINDS[key])
            raise InvalidInput(
                f"`{key}` in {path} is {str(value)[:60]!r}; it must be {wanted}",
                "Put it in quotes."
                if str in _KINDS[key] and value not in (None, "", [], {})
                else f"Write {wanted}.",
            )
    if parsed.get("log-level", LEVELS[0]) not in LEVELS:
        level = parsed["log-level"]
        raise InvalidInput(f"`log-level` in {path} is {level[:60]!r}", nearest(level, LEVELS))
    return dict(parsed)


_NAMES = {str: "text", list: "a list of texts", bool: "true or false"}


def _name(given: str | None, hostname: str | None) -> str:
    return given if given is not None else (hostname or socket.gethostname()).partition(".")[0]


def _addresses(given: str | list[Any] | None, host: Sequence[HostAddress]) -> tuple[str, ...]:
    if given is None:
        first = next((a.ip for a in host if _is_usable(a.ip)), None)
        if first is None:
            raise InvalidInput(
                "this host has no address that other devices could reach",
                "Configure its network, or name one with --address IP:PORT.",
            )
        return (check_endpoint("address", _with_port(str(first))),)
    texts = [given] if isinstance(given, str) else given
    if not 1 <= len(texts) <= MAX_ADDRESSES or not all(isinstance(t, str) for t in texts):
        raise InvalidInput(
            f"`address` has {len(texts)} entries",
            "Give one address, or two on different networks for two links.",
        )
    checked = tuple(check_endpoint("address", text) for text in texts)
    if len(set(checked)) != len(checked):
        raise InvalidInput(f"address {checked[0]} is given twice", "Give it once.")
    if len(checked) > 1 and endpoints_clash(*checked):
        raise InvalidInput(
            f"addresses {' and '.join(checked)} overlap: the three ports after each are used too",
            "Leave four ports between two addresses of one IP.",
        )
    return checked


def _is_usable(ip: IPv4Address | IPv6Address) -> bool:
    return not (ip.is_loopback or ip.is_link_local or ip.is_multicast or ip.is_unspecified)


def _with_port(ip: str) -> str:
    return f"[{ip}]:{DEFAULT_PORT}" if ":" in ip else f"{ip}:{DEFAULT_PORT}"


def _interface(given: str | None, address: str, host: Sequence[HostAddress], witness: bool) -> str:
    if given:
        return given
    ip, _ = split_endpoint(address)
    found = next((a.interface for a in host if a.ip == ip), "")
    if not found and not witness:
        own = ", ".join(str(a.ip) for a in host if _is_usable(a.ip)) or "none but loopback"
        raise InvalidInput(
            f"address {ip} is not on this host",
            f"Its addresses are: {own}. Name one of them with --address IP:PORT.",
        )
    return found
