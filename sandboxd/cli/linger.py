"""Say once that a logout ends what runs in the background: systemd ends a user's processes unless they linger (loginctl(1)).

Imports next to nothing: every detached `run` asks.
"""

import os
import pwd

from sandboxd.cli.render import note
from sandboxd.settings import Settings

LINGER = "/var/lib/systemd/linger"
TOLD = "linger-told"
LOGOUT = "sandbox: your envs end at your last logout; `loginctl enable-linger` keeps them"


def lingers(directory: str = LINGER) -> bool:
    """Whether this user's processes outlive the last logout; also where no systemd would end them."""
    uid = os.geteuid()
    if uid == 0 or not os.path.isdir(f"/run/user/{uid}/systemd"):
        return True
    return os.path.exists(f"{directory}/{pwd.getpwuid(uid).pw_name}")


def warn_once() -> None:
    """Tell whoever starts an env that is to stay, the first time."""
    if lingers():
        return
    state = Settings.from_environ(os.environ, os.geteuid()).state
    try:
        os.close(os.open(f"{state}/{TOLD}", os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    except OSError:  # told before, or nothing can be kept there
        return
    note(LOGOUT)
