"""Detach keys: typed in a row they leave a session and its command runs on (`ctrl-p,ctrl-q`, as docker).

Pure. Invariant: bytes that turn out not to be the sequence are passed on, in order, none lost; the sequence itself never is.
"""

from sandboxd.errors import UsageError

DEFAULT = "ctrl-p,ctrl-q"
HINT = "such as ctrl-p,ctrl-q or ctrl-],d; empty for none"


def parse_keys(text: str) -> bytes:
    """`ctrl-p,ctrl-q` as the bytes a terminal sends; raises UsageError."""
    keys = bytearray()
    for part in text.split(",") if text else []:
        if len(part) == 1 and part.isascii():
            keys += part.encode()
        elif part.startswith("ctrl-") and len(part) == 6 and (part[5].isalpha() or part[5] in "@[\\]^_") and part.isascii():
            keys.append(ord(part[5].upper()) & 0x1F)
        else:
            raise UsageError(f"--detach-keys {text}: {part!r} is no key", hint=HINT)
    return bytes(keys)


class DetachKeys:
    """Watches what is typed. `feed` gives what to pass on, and whether the sequence was completed."""

    def __init__(self, keys: bytes) -> None:
        self._keys = keys
        self._held = b""

    def feed(self, data: bytes) -> tuple[bytes, bool]:
        """(bytes to pass on, whether to detach); after a detach the rest of `data` is dropped."""
        if not self._keys:
            return data, False
        passed = bytearray()
        for number in data:
            self._held += bytes((number,))
            if self._held == self._keys:
                self._held = b""
                return bytes(passed), True
            while self._held and not self._keys.startswith(self._held):
                passed.append(self._held[0])
                self._held = self._held[1:]
        return bytes(passed), False
