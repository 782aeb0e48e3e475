"""An env that is shared by its link: the token in a URL, which becomes a cookie, so that it does not stay in the address bar.

Pure. Who has the link may hand it on; a new env has another one. Invariant: an endpoint without a token is reached by no link.
"""

import hmac
import re
from typing import NamedTuple

from sandboxd.routing.pages import Page
from sandboxd.routing.requests import Request
from sandboxd.routing.rules import COOKIES

NAME = b"sandboxd-link"
ASKED = re.compile(rb"([?&])sandboxd-link=([A-Za-z0-9_-]{16,64})(&|$)")


class Shown(NamedTuple):
    """A request that shows the token. target: without it. cookie: the field line that has a browser show it from now on."""

    target: bytes
    cookie: bytes = b""


def shown(request: Request, token: str, *, trusted: bool) -> Shown | None:
    """What of a request shows this token; None: nothing does. trusted: whether what it says of TLS holds."""
    if not token:
        return None
    secure = trusted and request.scheme == b"https"
    name = (b"__Host-" if secure else b"") + NAME  # RFC 6265bis 4.1.3.2
    for line in COOKIES.findall(request.fields):
        for pair in line.split(b";"):
            key, _, value = pair.strip(b" \t").partition(b"=")
            if key == name and hmac.compare_digest(value, token.encode()):
                return Shown(request.target)
    match = ASKED.search(request.target)
    if match is None or not hmac.compare_digest(match[2], token.encode()):
        return None
    more = b"; Secure" if secure else b""
    cookie = b"Set-Cookie: %b=%b; Path=/; HttpOnly; SameSite=Lax%b\r\n" % (name, token.encode(), more)
    return Shown(request.target[: match.start()] + (match[1] if match[3] else b"") + request.target[match.end() :], cookie)


def moved(target: bytes) -> Page:
    """To the same place without the token. A target that begins with two slashes would name another host (RFC 3986 4.2)."""
    place = "/" + target.decode("latin-1").lstrip("/") if target.startswith(b"/") else "/"
    return Page(303, "This way", "The link is known here now.", f"Go on at {place}", field=f"Location: {place}")


def needed() -> Page:
    """It is shared by its link, and this request shows none."""
    return Page(
        403,
        "This environment is shared by its link",
        "The request shows no link of it.",
        "Ask whom it belongs to for the whole URL, with what follows the `?`.",
    )
