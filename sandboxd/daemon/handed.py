"""Listening sockets that the service manager hands over by name (sd_listen_fds(3)): `control`, and `router` for each address.

They come from socket units, or from the manager's store, where an earlier daemon left them: then a restart loses no client that
is just connecting. The variables are taken out of the environment, and nothing started later inherits the descriptors.
"""

import os
import socket
from collections.abc import MutableMapping

FIRST = 3  # SD_LISTEN_FDS_START
MOST = 64
CONTROL, ROUTER = "control", "router"


def take(environ: MutableMapping[str, str]) -> dict[str, list[socket.socket]]:
    """The sockets meant for this process, by name; the caller closes them. What is no listening stream socket is closed."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if pid != str(os.getpid()) or not count.isdigit() or int(count) > MOST:
        return {}
    found: dict[str, list[socket.socket]] = {}
    for number in range(int(count)):
        fd = FIRST + number
        try:
            os.set_inheritable(fd, False)
            sock = socket.socket(fileno=fd)
        except OSError:
            continue
        name = names[number] if number < len(names) else ""
        family = (socket.AF_UNIX,) if name == CONTROL else (socket.AF_INET, socket.AF_INET6)
        if name in (CONTROL, ROUTER) and sock.family in family and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.setblocking(False)
            found.setdefault(name, []).append(sock)
        else:
            sock.close()
    return found
