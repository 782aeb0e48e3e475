"""Answers of the router's own: what failed, why, what to do next; a small page for people, plain text for programs.

Pure. A page tells only about the env that was asked for by its name: it lists no other, and an unknown name gets the same
words whoever asks. Everything that came from outside is escaped.
"""

import html

PHRASES = {
    303: "See Other",
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    413: "Content Too Large",
    414: "URI Too Long",
    417: "Expectation Failed",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
    502: "Bad Gateway",
    503: "Service Unavailable",
    504: "Gateway Timeout",
    505: "HTTP Version Not Supported",
}
SOON = 5  # seconds after which to try again what a crowd was in the way of
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:38rem;margin:15vh auto 0;padding:0 1.5rem;color:#222;background:#fff}"
    "h1{font-size:1.4rem;font-weight:600}code{background:#f0f0f0;padding:.15em .35em;border-radius:4px}small{color:#777}"
    "@media(prefers-color-scheme:dark){body{color:#ddd;background:#161616}code{background:#2a2a2a}}"
)


class Page:
    """What to say. next: what to do about it; `code` spans are written in backquotes. retry_after: whole seconds, or None.
    field: one more line of the head, without its end."""

    __slots__ = ("field", "next", "retry_after", "status", "text", "title")

    def __init__(
        self, status: int, title: str, text: str, next_: str, retry_after: int | None = None, *, field: str = ""
    ) -> None:
        self.status = status
        self.title = title
        self.text = text
        self.next = next_
        self.retry_after = retry_after
        self.field = field


def render(page: Page, *, as_html: bool, bodiless: bool, close: bool, more: bytes = b"") -> bytes:
    """The whole response. `bodiless`: it answers HEAD, so the body is left out and only its length told. more: field lines."""
    body = (as_document(page) if as_html else as_text(page)).encode()
    lines = [
        f"HTTP/1.1 {page.status} {PHRASES[page.status]}",
        f"Content-Type: text/{'html' if as_html else 'plain'}; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Server: sandboxd-router",
    ]
    if as_html:
        lines.append("Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'")
    if page.retry_after is not None:
        lines.append(f"Retry-After: {page.retry_after}")
    if page.field:
        lines.append(page.field)
    if close:
        lines.append("Connection: close")
    return "\r\n".join([*lines, ""]).encode() + more + b"\r\n" + (b"" if bodiless else body)


def as_text(page: Page) -> str:
    """For curl and programs."""
    return f"{page.status} {page.title}\n{page.text}\nnext: {page.next}\n"


def as_document(page: Page) -> str:
    """For browsers; no script, nothing loaded from anywhere."""
    title = html.escape(page.title)
    text = html.escape(page.text)
    parts = html.escape(page.next).split("`")
    following = "".join(f"<code>{part}</code>" if odd % 2 else part for odd, part in enumerate(parts))
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>'
        f"<h1>{title}</h1><p>{text}</p><p>{following}</p><small>{page.status} · sandboxd</small></html>\n"
    )


def bad_request(status: int, reason: str) -> Page:
    """The request cannot be passed on as it is."""
    return Page(
        status,
        "This request cannot be passed on",
        f"{reason[:1].upper()}{reason[1:]}.",
        "Send it again as plain HTTP/1.1; if your client did, report it with the raw request (`curl -v` shows it).",
    )


def unknown_host() -> Page:
    """No env goes by that name. The same for all, so that names cannot be guessed from it."""
    return Page(
        404,
        "No environment has this name",
        "Nothing is reached by the host name that was asked for.",
        "Check the name with `sandbox ps`, or start it: `sandbox up`.",
    )


def not_yours() -> Page:
    """The connection comes from a process that may not reach the env."""
    return Page(
        403,
        "This environment belongs to someone else",
        "From this machine only the user it belongs to is let in, and no process of another environment.",
        "Make the request as the environment's own user, from outside of any environment.",
    )


def still_starting(name: str, hold: float) -> Page:
    """It was waited for, and is still not ready."""
    return Page(
        503,
        f"{name} is still starting",
        f"The request was held for {hold:.0f} s, and the environment is not ready yet.",
        f"Try again, or look at what it does: `sandbox logs -f {name}`.",
        retry_after=max(1, min(30, round(hold))),
    )


def waiting(name: str, stage: str) -> Page:
    """For a browser, while its env starts: it asks again by itself, and what it then gets is the answer."""
    text = f"An environment of your own is being made{f': {stage}' if stage else ''}."
    return Page(503, f"{name} is starting", text, "This page goes on by itself.", retry_after=1, field="Refresh: 1")


def no_key(name: str, keys: list[str]) -> Page:
    """A template's env is found by a key, and there is none."""
    words = {"token": "a bearer token", "host": f"a name of its own, as KEY.{name}", "path": "a path, as /KEY"}
    wanted = [words.get(kind, f"the header {kind.partition(':')[2]}") for kind in keys]
    title, next_ = f"{name} makes an environment for each key", f"Send {' or '.join(wanted)} along."
    if "token" in keys:
        return Page(401, title, "The request has none.", next_, field="WWW-Authenticate: Bearer")
    return Page(400, title, "The request has none.", next_)


def no_env(name: str) -> Page:
    """There is none for that key, and a request alone makes none."""
    return Page(
        404,
        "No environment has this key",
        f"{name} makes none for keys that a request chooses by itself.",
        f"Make it with `sandbox ensure {name} --key KEY`; or set `create = true` in its [on_demand].",
    )


def no_room(name: str, text: str, hint: str, retry_after: float) -> Page:
    """One more cannot be made now."""
    said = f"{text[:1].upper()}{text[1:].removesuffix('.')}."
    return Page(
        503, f"{name} has no room for one more", said, hint or "Try again later.", retry_after=max(1, round(retry_after))
    )


def stopped(name: str, reason: str) -> Page:
    """It does not run, and nobody is about to start it. No Retry-After (RFC 9110 15.6.4: MAY): waiting changes nothing."""
    return Page(503, f"{name} is stopped", reason or "The environment does not run.", f"Start it: `sandbox start {name}`.")


def failed(name: str, reason: str) -> Page:
    """It ended by itself, and not well."""
    return Page(
        503,
        f"{name} has failed",
        reason or "The environment ended by itself.",
        f"See why: `sandbox logs {name}`; then `sandbox start {name}`.",
    )


def going(name: str) -> Page:
    """It was taken away while the request was under way."""
    return Page(503, f"{name} is stopping", "It was stopped during the request.", f"Start it: `sandbox start {name}`.")


def no_port(name: str) -> Page:
    """It runs, and listens nowhere."""
    return Page(
        502,
        f"{name} listens on no port",
        "The environment runs, but no TCP port to route to is known.",
        f"If its program serves on a port, see `sandbox ports {name}`, or name it: `sandbox run -p PORT`.",
    )


def refused(name: str, port: int, reason: str) -> Page:
    """Nobody takes the connection inside."""
    return Page(
        502,
        f"{name} does not answer on port {port}",
        f"{reason[:1].upper()}{reason[1:]}.",
        f"Is its program up, and on 127.0.0.1 or [::1]? `sandbox ports {name}`, `sandbox logs {name}`.",
    )


def crowded(name: str, bound: int, reason: str) -> Page:
    """It bounds its connections, and others have them all."""
    return Page(
        503,
        f"{name} is busy",
        f"It takes {bound} connection{'' if bound == 1 else 's'} at once, and {reason}.",
        f"Try again soon; or let it have more: `sandbox update --max-connections {bound * 2} {name}`.",
        retry_after=SOON,
    )


def bad_answer(name: str, reason: str) -> Page:
    """The service answered with something that cannot be passed on, or not at all."""
    return Page(
        502,
        f"{name} gave no proper answer",
        f"{reason[:1].upper()}{reason[1:]}.",
        f"See what its program says: `sandbox logs {name}`.",
    )


def too_slow(reason: str) -> Page:
    """A client that did not finish its request in time."""
    return Page(408, "The request took too long to arrive", f"{reason[:1].upper()}{reason[1:]}.", "Send it again in one go.")
