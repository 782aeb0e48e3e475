"""Frames of the control protocol: one JSON text each, ended by a NUL byte (varlink's wire format).

Pure and incremental: bytes in any pieces, frames out in order. Everything is capped before anyone decodes it: a frame by its
length, then by its nesting, so that what a peer sends can cost neither memory nor stack. A broken rule is a
ProtocolViolation, raised in its turn: the frames before it are still handed out.
"""

from sandboxd.errors import ProtocolViolation

NUL = b"\0"
# What a client may send. An EnvSpec of 64 services with their environments stays far below.
FRAME_CAP = 1 << 20
# What a daemon may answer: `ps` of some ten thousand envs fits.
REPLY_CAP = 64 << 20
# Deepest message of ours: Run > spec > services > NAME > ready > command > word, within the envelope.
NESTING_CAP = 32

# Every byte but brackets goes; braces become brackets, since a mismatch is the decoder's to find.
_NOT_BRACKETS = bytes(byte for byte in range(256) if byte not in b"[]{}")
_AS_BRACKETS = bytes.maketrans(b"{}", b"[]")


class FrameReader:
    """Bytes in, frames out. `feed` what came, then call `next_frame` until it gives None."""

    def __init__(self, cap: int = FRAME_CAP) -> None:
        self._cap = cap
        self._buffer = bytearray()
        self._searched = 0  # no NUL before this: a frame that trickles in is not searched anew with each byte

    def __len__(self) -> int:
        """Bytes held that are not handed out yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take what came from the peer."""
        self._buffer += data

    def next_frame(self) -> bytes | None:
        """The next whole frame without its NUL; None: more bytes are needed. Raises ProtocolViolation over the cap."""
        end = self._buffer.find(NUL, self._searched, self._cap + 1)
        if end < 0:
            self._searched = len(self._buffer)
            if self._searched > self._cap:
                raise ProtocolViolation(f"a message is longer than {self._cap} bytes", hint="send less in one message")
            return None
        frame = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._searched = 0
        return frame


def nesting(frame: bytes, cap: int = NESTING_CAP) -> int:
    """How deep a JSON text nests, counted up to cap + 1; what is no JSON may give any number."""
    if frame.count(b"[") + frame.count(b"{") == 0:
        return 0
    # Outside of strings JSON has no backslash, so pairs of them, then escaped quotes, can go; what is left of the
    # quotes delimits strings, and every second part is one. No loop in Python runs over the frame's bytes.
    plain = b"".join(frame.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    left = plain.translate(_AS_BRACKETS, _NOT_BRACKETS)
    for depth in range(cap + 1):
        if not left:
            return depth
        left = left.replace(b"[]", b"")  # takes off the innermost level, everywhere
    return cap + 1


def check_nesting(frame: bytes, cap: int = NESTING_CAP) -> None:
    """Raise ProtocolViolation for a text that nests deeper than any message of ours."""
    # Fewer openings than the cap cannot nest deeper than it: most frames end here.
    if frame.count(b"[") + frame.count(b"{") > cap and nesting(frame, cap) > cap:
        raise ProtocolViolation(f"a message nests deeper than {cap} levels", hint="send flatter JSON")
