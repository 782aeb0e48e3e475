"""Runs in the guest, as root, as a service: says that the guest is up, is told what to run, and brings its results back.

A guest is saved, and resumed, while this waits. Python's standard library only.
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
    """Share `name` of the share disk, writable: the changes go to the guest's own disk."""
    lower, up = "/run/share/" + name, f"/var/lib/share/{number}"
    for directory in up + "/upper", up + "/work", path:
        os.makedirs(directory, exist_ok=True)
    os.chown(up + "/upper", user.pw_uid, user.pw_gid)
    os.chmod(up + "/upper", os.stat(lower).st_mode & 0o7777)
    options = f"lowerdir={lower},upperdir={up}/upper,workdir={up}/work"
    run("mount", "-t", "overlay", "-o", options, "overlay", path, check=True)


def serve(req):
    """Carry out one request; how it went."""
    time.clock_settime(time.CLOCK_REALTIME, req["time"])
    with open("/dev/urandom", "wb") as f:
        f.write(bytes.fromhex(req["seed"]))
    user = pwd.getpwnam(req["user"])
    os.mkdir("/out")
    os.chown("/out", user.pw_uid, user.pw_gid)
    if req["shares"]:
        os.mkdir("/run/share")
        run("mount", "-t", "squashfs", "-o", "ro", "/dev/disk/by-id/virtio-share", "/run/share", check=True)
    for number, (name, path) in enumerate(req["shares"]):
        mount(number, name, path, user)
    (out, t1), (err, t2) = pump("out", user.pw_uid), pump("err", user.pw_uid)
    code = run("/bin/sh", "-ec", req["setup"], stdout=err, stderr=err).returncode if req["setup"] else 0
    start = time.monotonic()
    cwd = req["cwd"] or user.pw_dir
    code = code or session(req["user"], req["argv"], out, err, cwd=cwd, env=req["env"], kind=req["session"])
    took = time.monotonic() - start
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
    for user in "root", "dev":  # warms what a first session has to load
        session(user, ["true"], None, None, kind="scope")
    run("runuser", "-u", "dev", "--", "python3", "-c", "import asyncio, sqlite3, json, logging, subprocess, ssl, http.client")
    time.sleep(1)
    ctl = os.open(PORT + "ctl", os.O_RDWR)

    def say(message):
        os.write(ctl, json.dumps(message).encode() + b"\n")

    say(dict(ready=state, uptime=time.monotonic()))
    line = b""
    while not line.endswith(b"\n"):  # a guest is saved, and resumed, in this read
        data = os.read(ctl, 65536)
        line += data
        if not data:
            time.sleep(0.05)
    say(dict(started=True))
    try:
        say(serve(json.loads(line)))
    except Exception as e:
        say(dict(failed=repr(e)))


if __name__ == "__main__":
    try:
        main()
    finally:
        ctypes.CDLL(None).reboot(0x4321FEDC)  # power off at once: nothing here is worth a shutdown
