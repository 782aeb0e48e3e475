"""Runs in the guest, as root, as a service: says that the guest is up, is told what to run, and brings its results back.

A guest is saved, and resumed, while this waits. A command that reboots the guest on purpose is run again after it, with the
number of the boot in VM_BOOT: it leaves word of its purpose in ASKED first. Python's standard library only.
"""

import ctypes
import json
import os
import pwd
import subprocess
import tarfile
import threading
import time

PORT = "/dev/virtio-ports/vm."
DISK = "/dev/disk/by-id/virtio-share"
KEPT = "/var/lib/vm-agent/request"  # what a guest that may reboot is asked for
ASKED = "/var/lib/vm-agent/reboot"


def run(*argv, check=False, **kw):
    return subprocess.run(argv, stdin=subprocess.DEVNULL, check=check, **kw)


def session(user, argv, out, err, *, cwd="/", env=(), kind="login"):
    """Run argv in a login session of user (scope: and there in a delegated scope of that user's manager); its exit status."""
    argv = ["/bin/sh", "-c", 'exec "$@"', "sh", *argv]  # 126, 127 as a shell gives them
    if kind == "scope":
        manager = [] if user == "root" else ["--user"]
        argv = ["systemd-run", *manager, "--scope", "--quiet", "--collect", "-p", "Delegate=yes", "--", *argv]
    argv = ["/bin/sh", "-c", '"$@"; exit $?', "sh", *argv]  # 128+N after signal N
    # Not Type=exec: with PAM it is taken as started only when it ends (252), and is killed after 90 s.
    command = ["systemd-run", "--quiet", "--pipe", "--wait", "--collect", "--service-type=simple"]
    command += ["-p", "User=" + user, "-p", "PAMName=login", "-p", "WorkingDirectory=" + cwd]
    command += ["--setenv=XDG_SESSION_TYPE=tty", "--setenv=XDG_SESSION_CLASS=user"]  # as over ssh, not "background"
    command += ["--setenv=" + e for e in env]
    return run(*command, "--", *(a.replace("$", "$$") for a in argv), stdout=out, stderr=err).returncode


def pump(name, uid):
    """A pipe whose far end is copied to the host's port: (its write end, the thread)."""
    r, w = os.pipe()
    os.fchown(w, uid, -1)  # so that the command may reopen /dev/stdout

    def copy():
        with open(PORT + name, "wb", buffering=0) as port:
            while data := os.read(r, 65536):
                while data:
                    data = data[port.write(data) :]

    thread = threading.Thread(target=copy, daemon=True)
    thread.start()
    return w, thread


def mount(number, name, path, user):
    """Share `name` of the share disk, writable: the changes go to the guest's own disk. Its line for fstab."""
    lower, up = "/run/share/" + name, f"/var/lib/share/{number}"
    for directory in up + "/upper", up + "/work", path:
        os.makedirs(directory, exist_ok=True)
    os.chown(up + "/upper", user.pw_uid, user.pw_gid)
    os.chmod(up + "/upper", os.stat(lower).st_mode & 0o7777)
    options = f"lowerdir={lower},upperdir={up}/upper,workdir={up}/work"
    run("mount", "-t", "overlay", "-o", options, "overlay", path, check=True)
    return f"overlay {path} overlay {options},x-systemd.requires-mounts-for=/run/share 0 0\n"


def share(req, user):
    """Have the shared folders, again at each start where there may be one: services want them then."""
    os.mkdir("/run/share")
    run("mount", "-t", "squashfs", "-o", "ro", DISK, "/run/share", check=True)
    lines = [f"{DISK} /run/share squashfs ro 0 0\n"]
    lines += [mount(number, name, path, user) for number, (name, path) in enumerate(req["shares"])]
    if req["reboots"]:
        with open("/etc/fstab", "a") as f:
            f.writelines(lines)


def begin(req):
    """What comes before a request's command, once."""
    time.clock_settime(time.CLOCK_REALTIME, req["time"])
    with open("/dev/urandom", "wb") as f:
        f.write(bytes.fromhex(req["seed"]))
    user = pwd.getpwnam(req["user"])
    os.mkdir("/out")
    os.chown("/out", user.pw_uid, user.pw_gid)


def keep(req):
    """Have the disk hold the request, and all that was set up for it, whatever becomes of the guest."""
    os.makedirs(os.path.dirname(KEPT), exist_ok=True)
    with open(KEPT + ".new", "w") as f:
        json.dump(req, f)
    os.rename(KEPT + ".new", KEPT)
    os.sync()


def kept():
    """The request that a reboot was part of."""
    with open(KEPT) as f:
        req = json.load(f)
    if not os.path.exists(ASKED):
        raise RuntimeError("it started again, and nobody had asked it to")
    os.unlink(ASKED)
    req["boot"] += 1
    keep(req)
    return req


def serve(req):
    """Carry out one request; how it went."""
    user = pwd.getpwnam(req["user"])
    first = not req["boot"]
    if req["shares"] and first:
        share(req, user)
    (out, t1), (err, t2) = pump("out", user.pw_uid), pump("err", user.pw_uid)
    code = run("/bin/sh", "-ec", req["setup"], stdout=err, stderr=err).returncode if req["setup"] and first else 0
    if req["reboots"] and first:
        keep(req)
    start = time.monotonic()
    cwd, env = req["cwd"] or user.pw_dir, [*req["env"], f"VM_BOOT={req['boot']}"]
    code = code or session(req["user"], req["argv"], out, err, cwd=cwd, env=env, kind=req["session"])
    took = time.monotonic() - start
    while os.path.exists(ASKED):  # the command was ended by the shutdown that it asked for, which ends this, too
        time.sleep(1)
    os.close(out)
    os.close(err)
    t1.join(1)
    t2.join(0.1)  # something left running may hold them open
    if req["out"]:
        with open(PORT + "art", "wb") as port, tarfile.open(mode="w|", fileobj=port) as tar:
            tar.add("/out", ".")
    return dict(exit=code, took=took)


def main():
    run("modprobe", "-a", "squashfs", "overlay", "loop")
    state = run("systemctl", "is-system-running", "--wait", capture_output=True, text=True).stdout.strip()
    again = os.path.exists(KEPT)
    for user in () if again else ("root", "dev"):  # warms what a first session has to load
        session(user, ["true"], None, None, kind="scope")
    if not again:
        run(
            "runuser",
            "-u",
            "dev",
            "--",
            "python3",
            "-c",
            "import asyncio, sqlite3, json, logging, subprocess, ssl, http.client",
        )
    ctl = os.open(PORT + "ctl", os.O_RDWR)

    def say(message):
        os.write(ctl, json.dumps(message).encode() + b"\n")

    def asked():
        """The request. A guest is saved, and resumed, while this reads."""
        time.sleep(1)
        say(dict(ready=state, uptime=time.monotonic()))
        line = b""
        while not line.endswith(b"\n"):
            data = os.read(ctl, 65536)
            line += data
            if not data:
                time.sleep(0.05)
        say(dict(started=True))
        return json.loads(line)

    try:
        req = kept() if again else asked()
        if not again:
            begin(req)
        say(serve(req))
    except Exception as e:
        say(dict(failed=repr(e)))


if __name__ == "__main__":
    try:
        main()
    finally:
        ctypes.CDLL(None).reboot(0x4321FEDC)  # power off at once: nothing here is worth a shutdown
