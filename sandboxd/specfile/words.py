"""The short forms that fingers know from docker: `8080:3000` and `SRC:DST:ro`, and the names of signals.

Pure; imports spec only. One reading for flags and files alike. Raises SpecInvalid with the form that would be right.
"""

import ipaddress
import posixpath
import re

from sandboxd.errors import SpecInvalid
from sandboxd.spec import Idle, Mount, Publish
from sandboxd.units import parse_duration, shown

PUBLISH = re.compile(
    r"(?:(?P<address>\[[0-9a-fA-F:.]+\]|[^:\[\]]+):)?(?P<host>[0-9]{1,5}):(?P<port>[0-9]{1,5})(?:/tcp(?P<proxy>\+proxy)?)?"
)
UNIX = re.compile(r"(?P<address>unix:/[^\0]*[^\0/]):(?P<port>[0-9]{1,5})(?:/tcp(?P<proxy>\+proxy)?)?")
PUBLISH_HINT = (
    'write "HOST_PORT:PORT", "ADDRESS:HOST_PORT:PORT" or "unix:/PATH:PORT", as "8080:3000" or "127.0.0.1:8080:3000" (ports 1 to'
    ' 65535); "/tcp+proxy" behind it adds a PROXY protocol header'
)
LONGEST_SOCKET = 107  # bytes (unix(7), sun_path)
MOUNT_HINT = 'write "SOURCE:TARGET" or "SOURCE:TARGET:ro"; for paths with a colon: { source = "…", target = "…" }'
IDLE_HINT = '"15m" to stop it after that, or "suspend=5m,stop=1h,remove=7d"'

# signal(7), Linux on every architecture we run on; the `signal` module would be an import of the world
SIGNALS = {
    "HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10, "SEGV": 11,
    "USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17, "CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21,
    "TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
}  # fmt: skip


def parse_publish(text: str) -> Publish:
    """A host address that reaches a port inside, from "[ADDRESS:]HOST_PORT:PORT"; loopback unless an address is given."""
    unix = UNIX.fullmatch(text.strip())
    found = unix or PUBLISH.fullmatch(text.strip())
    if not found:
        raise SpecInvalid(f"{shown(text)} says no host port and port", hint=PUBLISH_HINT)
    host_port, port = 0 if unix else int(found["host"]), int(found["port"])
    if not (1 <= port <= 65535 and (unix or 1 <= host_port <= 65535)):
        raise SpecInvalid(f"{shown(text)} has a port out of range", hint=PUBLISH_HINT)
    address = parse_address(found["address"] or "127.0.0.1")
    return Publish(host_port=host_port, port=port, address=address, proxy_protocol=bool(found["proxy"]))


def parse_address(text: str) -> str:
    """A numeric host address in its one spelling, or the path of a Unix socket behind `unix:`."""
    if text.startswith("unix:"):
        return "unix:" + parse_socket(text.removeprefix("unix:"))
    if text == "localhost":
        return "127.0.0.1"
    try:
        return str(ipaddress.ip_address(text.strip("[]")))
    except ValueError:
        raise SpecInvalid(
            f"{shown(text)} is no IP address", hint='use a number: "127.0.0.1", "0.0.0.0" for all, "[::1]"'
        ) from None


def parse_socket(path: str) -> str:
    """Where a Unix socket can be."""
    whole = posixpath.normpath(path) if path.startswith("/") and not path.startswith("//") else ""
    if not whole or whole == "/" or "\0" in path or len(whole.encode("utf-8", "replace")) > LONGEST_SOCKET:
        raise SpecInvalid(
            f"{shown(path)} is no place for a Unix socket", hint=f"an absolute path of at most {LONGEST_SOCKET} bytes"
        )
    return whole


def parse_mount(text: str) -> Mount:
    """A host path shown inside, from "SOURCE:TARGET[:ro|rw]"."""
    source, _, rest = text.partition(":")
    target, _, mode = rest.partition(":")
    if not source or not target or mode not in ("", "ro", "rw"):
        raise SpecInvalid(f"{shown(text)} is no mount", hint=MOUNT_HINT)
    return Mount(source=source, target=target, readonly=mode == "ro")


def signal_number(text: str) -> int | None:
    """The number of a signal given as TERM, SIGTERM, term, 15, RTMIN+1 is not offered; None for what is no signal."""
    if text.isascii() and text.isdigit():
        return int(text) if len(text) <= 2 and 1 <= int(text) <= 64 else None
    return SIGNALS.get(text.upper().removeprefix("SIG"))


def parse_idle(text: str) -> Idle:
    """What becomes of an idle env, from "15m" (it is stopped after that) or "suspend=5m,stop=1h,remove=7d"."""
    given: dict[str, float] = {}
    for part in text.split(","):
        step, equals, after = part.partition("=")
        step = step.strip() if equals else "stop"
        if step not in ("suspend", "stop", "remove"):
            raise SpecInvalid(
                f"{shown(step)} is no step of an idle env", hint=f"the steps are suspend, stop or remove: {IDLE_HINT}"
            )
        if step in given:
            raise SpecInvalid(f"{step} is named twice", hint=IDLE_HINT)
        given[step] = parse_duration(after if equals else part)
    return Idle(suspend=given.get("suspend"), stop=given.get("stop"), remove=given.get("remove"))
