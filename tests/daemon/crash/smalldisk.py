"""The daemon with its state on a disk of its own that is soon full: `python -m tests.daemon.crash.smalldisk`.

It makes a mount namespace, mounts a tmpfs at SANDBOXD_DIR with the options of SMALLDISK, and becomes the daemon. The control
socket stays outside (SANDBOXD_SOCKET); the test reaches the disk through /proc/PID/root. No mount of the host's is touched.
"""

import os
import sys
from pathlib import Path

from sandboxd.daemon.main import main as daemon
from sandboxd.kernel import mounts, namespaces


def main() -> None:
    """In the daemon's place."""
    uid, gid = os.getuid(), os.getgid()
    namespaces.unshare(namespaces.NEWUSER | namespaces.NEWNS)
    namespaces.write_proc("/proc/self/setgroups", b"deny")
    namespaces.write_proc("/proc/self/uid_map", b"%d %d 1" % (uid, uid))
    namespaces.write_proc("/proc/self/gid_map", b"%d %d 1" % (gid, gid))
    place = Path(os.environ["SANDBOXD_DIR"])
    place.mkdir(exist_ok=True)
    mounts.mount("tmpfs", str(place), mounts.MS_NOSUID | mounts.MS_NODEV, os.environ["SMALLDISK"])
    if stray := os.environ.get("SMALLDISK_STRAY"):  # a mount that nobody has in the place of an env that there is not
        Path(stray).mkdir(parents=True)
        (place / "envs").chmod(0o700)
        mounts.mount("tmpfs", stray)
        sys.argv = ["sandboxd"]
        daemon()  # an execve would take the capabilities that umount needs (capabilities(7))
        return
    os.execv(sys.executable, [sys.executable, "-m", "sandboxd"])


if __name__ == "__main__":
    main()
