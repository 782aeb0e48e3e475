"""Which versions of init's protocol a daemon speaks: the newest, and the one before it, whose inits an upgrade finds running.

An init is what it was when its env started, for weeks maybe; the daemon is what is installed. So the daemon translates, and
init never does. Each entry turns a frame of that version into one of the next. Pure; for initlink.

1: the greeting has `status` only.
2: it has `walls` (found to hold), `netns_cookie` and `refused` (system calls), too: an init whose launch no daemon could write
   down can be taken over.
"""

from collections.abc import Callable, Mapping
from typing import Any

from sandboxd.errors import ProtocolViolation
from sandboxd.launch.frames import VERSION

Message = dict[str, Any]


def from_1(message: Message) -> Message:
    """A greeting that says nothing of its walls has proven none."""
    return {"walls": [], "netns_cookie": 0, "refused": [], **message} if message.get("event") == "hello" else message


NEXT: Mapping[int, Callable[[Message], Message]] = {VERSION - 1: from_1}
SPOKEN = (*NEXT, VERSION)


def understood(message: Message, version: int) -> Message:
    """A frame of an init of that version as the newest says it; raises ProtocolViolation for a version that is not spoken."""
    if version not in SPOKEN:
        spoken = " and ".join(map(str, SPOKEN))
        raise ProtocolViolation(
            f"init speaks version {version}, this daemon {spoken}",
            hint="use the sandboxd that started the env, or one of the version after it",
        )
    while version != VERSION:
        message = NEXT[version](message)
        version += 1
    return message
