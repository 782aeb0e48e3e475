#!/usr/bin/env python3
"""Run a command in a throw-away Debian VM: systemd as pid 1, cgroup v2 only, an unprivileged user `dev` with a lingering user
manager (and `eve` without), no network but loopback.

    machine.py [options] [--share DIR[:GUEST_PATH]]... -- COMMAND [ARG...]
    machine.py [options] --build             only prepare the image and the saved guest

COMMAND runs in a PAM login session of --user; its stdout, stderr and exit status become this script's (its stdin is empty).
Each --share is a copy-on-write copy of DIR as it is at the start, owned by --user, at /share/BASENAME unless GUEST_PATH is
given; the first is the working directory. What the command leaves in /out comes back into the --out directory. Nothing else
survives: the VM is then powered off. With --reboots the guest may start again, and COMMAND is then run again (see agent.py).
Exit status: the command's (128+N if signal N ended it); 124 on --timeout; 125 if the VM itself failed.

The first use (as root, with apt) builds an image in ${XDG_CACHE_HOME:-~/.cache}/sandboxd-vm; remove that folder to start
afresh. Without hardware KVM the guest runs under TCG, software emulation, where booting is slow: so it is booted once for each
--cpus, --mem and --append, saved when idle, and later runs resume from that (RAM and disk are copy-on-write; several at once
are fine).
"""

import argparse
import ctypes
import json
import os
import platform
import secrets
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from tests.vm.image import ARCHES, HERE, Failed, cached, call, digest, image, missing_tools

APPEND = "root=/dev/vda rw quiet panic=-1 mitigations=off nokaslr systemd.show_status=0"
ACCEL = {"kvm": "kvm", "tcg": "tcg,thread=multi"}
SHARE_SIZE = 16 << 30  # the share disk is sparse, and of one size: a saved guest knows it
PORTS = ("ctl", "out", "err", "art")  # control, stdout, stderr, a tar of /out
SKIP_RAM = [{"capability": "x-ignore-shared", "state": True}]  # save devices only: RAM is a file
PR_SET_PDEATHSIG = 1
Options = argparse.Namespace
Sinks = dict[str, Any]


def log(opt: Options, *words: object) -> None:
    if opt.verbose:
        print(f"vm: [{time.monotonic() - opt.start:6.2f}s]", *words, file=sys.stderr, flush=True)


class VM:
    """A running QEMU, with a socket to each of the guest's ports, and one for QMP."""

    def __init__(
        self, opt: Options, img: Path, tmp: str, *, accel: str, disk: str, ram: str, more: tuple[str, ...] = ()
    ) -> None:
        self.console, self.ctl = opt.console or f"{tmp}/console.log", b""
        arch = ARCHES[opt.arch]
        kernel = f"{APPEND} console={arch.console} {opt.append}"
        cmd = [f"qemu-system-{opt.arch}", "-nodefaults", "-no-user-config", "-display", "none"]
        cmd += [] if opt.reboots else ["-no-reboot"]
        cmd += ["-machine", f"{arch.machine},memory-backend=ram", "-object", f"{ram},id=ram,size={opt.mem}M"]
        cmd += ["-m", f"{opt.mem}M", "-accel", ACCEL[accel], "-cpu", arch.cpu[accel], "-smp", str(opt.cpus)]
        cmd += ["-kernel", f"{img}/vmlinuz", "-initrd", f"{img}/initrd", "-append", kernel]
        cmd += ["-serial", f"file:{self.console}", "-drive", f"if=none,id=root,cache=unsafe,{disk}"]
        cmd += ["-drive", f"if=none,id=share,file={tmp}/share,format=raw,readonly=on"]
        cmd += ["-device", "virtio-blk-pci,drive=root", "-device", "virtio-blk-pci,drive=share,serial=share"]
        cmd += ["-device", "virtio-serial-pci", *more]
        self.sock: dict[str, socket.socket] = {}
        theirs = []
        for name in (*PORTS, "qmp"):
            self.sock[name], other = socket.socketpair()
            theirs.append(other)
            cmd += ["-chardev", f"socket,id={name},fd={other.fileno()}"]
            if name == "qmp":
                cmd += ["-mon", "chardev=qmp,mode=control"]
            else:
                cmd += ["-device", f"virtserialport,chardev={name},name=vm.{name}"]
        libc = ctypes.CDLL(None)
        self.proc = subprocess.Popen(
            cmd,
            stdin=subprocess.DEVNULL,
            pass_fds=[s.fileno() for s in theirs],
            env={**os.environ, "TMPDIR": tmp},
            preexec_fn=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL),  # noqa: PLW1509 - one thread; it ends with us
        )
        self.poll = selectors.DefaultSelector()
        for s in theirs:
            s.close()
        for name in PORTS:
            self.poll.register(self.sock[name], selectors.EVENT_READ, name)
        self.monitor = self.sock["qmp"].makefile("rw")
        try:
            self.monitor.readline()  # its greeting
            self.qmp("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def qmp(self, command: str, **arguments: object) -> Any:
        self.monitor.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self.monitor.flush()
        for reply in map(json.loads, self.monitor):
            if "error" in reply:
                raise Failed(f"QEMU: {command}: {reply['error']['desc']}")
            if "return" in reply:
                return reply["return"]
        raise Failed("QEMU ended early")

    def message(self, key: str, timeout: float, sinks: Sinks | None = None) -> dict[str, Any]:
        """The guest's next message that has `key`; meanwhile copies its ports to sinks."""
        sinks = sinks or {}
        deadline = time.monotonic() + timeout
        while True:
            events = self.poll.select(max(0, deadline - time.monotonic()))
            if not events:
                raise TimeoutError(f"the guest did not answer in {timeout:g} s")
            for event, _ in events:
                data = self.sock[event.data].recv(1 << 16)
                if not data:
                    tail = Path(self.console).read_text(errors="replace")[-3000:]
                    raise Failed("the VM ended early; its console:\n" + tail)
                if event.data == "ctl":
                    *lines, self.ctl = (self.ctl + data).split(b"\n")
                    for message in map(json.loads, lines):
                        if "failed" in message:
                            raise Failed("in the guest: " + message["failed"])
                        if key in message:
                            self.drain(sinks)
                            return dict(message)
                elif sink := sinks.get(event.data):
                    sink.write(data)
                    sink.flush()

    def drain(self, sinks: Sinks) -> None:
        """Copy what the guest wrote before its last message: by now it is in the sockets."""
        for name, sink in sinks.items():
            self.sock[name].setblocking(False)
            try:
                while data := self.sock[name].recv(1 << 16):
                    sink.write(data)
            except BlockingIOError:
                pass
            sink.flush()

    def close(self, grace: float = 0) -> None:
        try:
            self.proc.wait(grace)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
        self.monitor.close()
        self.poll.close()
        for s in self.sock.values():
            s.close()


def save(opt: Options, img: Path, snap: Path) -> None:
    """Boot the image under TCG, and save the idle guest: its RAM, device state and disk."""
    log(opt, "booting once, to save the idle guest")
    call("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", "../base.raw", snap / "disk.qcow2")
    pack(opt, [], f"{snap}/share")
    ram = f"memory-backend-file,share=on,mem-path={snap}/ram"
    vm = VM(opt, img, str(snap), accel="tcg", disk=f"file={snap}/disk.qcow2", ram=ram)
    try:
        log(opt, "the guest says", vm.message("ready", opt.boot_timeout))
        vm.qmp("migrate-set-capabilities", capabilities=SKIP_RAM)
        vm.qmp("migrate", uri="exec:cat >" + shlex.quote(f"{snap}/state"))
        while (status := vm.qmp("query-migrate").get("status")) != "completed":
            if status in ("failed", "cancelled"):
                raise Failed("saving the guest failed")
            time.sleep(0.1)
        vm.qmp("quit")
    finally:
        vm.close(10)


def ways(opt: Options, img: Path) -> Iterator[tuple[str, Path | None]]:
    """How to get a guest, the best first: (accelerator, folder of a saved guest or None)."""
    # PVM, too, has a /dev/kvm, and can't run a stock kernel: so look for the real thing
    info = Path("/proc/cpuinfo").read_text().splitlines()
    flags = next((line.split() for line in info if line.startswith("flags")), [])
    kvm = os.access("/dev/kvm", os.R_OK | os.W_OK) and {"vmx", "svm"} & set(flags)
    kvm = kvm and opt.arch == HERE
    if opt.accel == "kvm" or (opt.accel == "auto" and kvm):
        yield "kvm", None
    if opt.accel != "kvm":
        arch = ARCHES[opt.arch]
        key = digest(call(f"qemu-system-{opt.arch}", "--version"), APPEND, opt.append, arch, ACCEL)
        yield "tcg", cached(img / f"saved-{opt.cpus}-{opt.mem}-{key}", lambda snap: save(opt, img, snap))


def begin(opt: Options, img: Path, tmp: str, request: dict[str, Any]) -> VM:
    """A guest that has taken the request."""
    error: Exception | None = None
    for accel, snap in ways(opt, img):
        if error:
            print(f"vm: {error}\nvm: trying {accel}, {'saved' if snap else 'cold'}", file=sys.stderr)
        log(opt, "starting:", accel, "saved" if snap else "cold")
        vm = None
        try:
            if snap:  # its RAM file is mapped privately: pages come in as they are touched
                ram = f"memory-backend-file,share=off,mem-path={snap}/ram"
                disk = f"file={snap}/disk.qcow2,snapshot=on"
                vm = VM(opt, img, tmp, accel=accel, disk=disk, ram=ram, more=("-incoming", "defer"))
                vm.qmp("migrate-set-capabilities", capabilities=SKIP_RAM)
                vm.qmp("migrate-incoming", uri="exec:cat " + shlex.quote(f"{snap}/state"))
            else:
                disk = f"file={img}/base.raw,format=raw,snapshot=on"
                vm = VM(opt, img, tmp, accel=accel, disk=disk, ram="memory-backend-ram")
                log(opt, "the guest says", vm.message("ready", opt.boot_timeout))
            request.update(time=time.time(), seed=secrets.token_hex(64))
            vm.sock["ctl"].sendall(json.dumps(request).encode() + b"\n")
            vm.message("started", 60)
            log(opt, "started")
            return vm
        except BaseException as e:
            if vm:
                vm.close()
            if not isinstance(e, Failed | OSError):
                raise
            error = e
    raise error or Failed("there is no way to run a guest")


def pack(opt: Options, shares: list[tuple[Path, str]], path: str) -> None:
    """All shared folders as one squashfs, uncompressed, padded to the share disk's size."""
    if shares:
        uid = {"root": "0", "dev": "1000", "eve": "1001"}[opt.user]
        fast = ["-noI", "-noD", "-noF", "-noX", "-no-duplicates", "-quiet", "-no-progress"]
        call("mksquashfs", *(d for d, _ in shares), path, "-keep-as-directory", *fast, "-force-uid", uid, "-force-gid", uid)
    with open(path, "ab") as f:
        if f.tell() > SHARE_SIZE:
            raise Failed("--share: more than 16 GiB")
        f.truncate(SHARE_SIZE)


def run(opt: Options) -> int:
    """One command in one guest; its exit status."""
    if platform.machine() != HERE:
        raise Failed(f"this is for {HERE} only")
    if missing := missing_tools(opt.arch):
        raise Failed("these packages are missing: " + " ".join(missing))
    shares = []
    for spec in opt.share:
        d, _, path = spec.partition(":")
        shares.append((Path(d).resolve(strict=True), path or f"/share/{Path(d).resolve().name}"))
    img = image(opt.suite, opt.arch)
    if opt.build:
        next(ways(opt, img))
        return 0
    request = {
        **{"user": opt.user, "argv": opt.command, "env": opt.env, "session": opt.session, "setup": opt.setup},
        **{"shares": [[d.name, p] for d, p in shares], "cwd": shares[0][1] if shares else None, "out": bool(opt.out)},
        **{"boot": 0, "reboots": opt.reboots},
    }
    tar: subprocess.Popen[bytes] | None = None
    with tempfile.TemporaryDirectory(prefix="sandboxd-vm-") as tmp:
        pack(opt, shares, f"{tmp}/share")
        vm = begin(opt, img, tmp, request)
        try:
            sinks: Sinks = {"out": sys.stdout.buffer, "err": sys.stderr.buffer}
            if opt.out:
                os.makedirs(opt.out, exist_ok=True)
                tar = subprocess.Popen(["tar", "-x", "--no-same-owner", "-C", opt.out], stdin=subprocess.PIPE)
                sinks["art"] = tar.stdin
            try:
                done = vm.message("exit", opt.timeout, sinks)
            except TimeoutError:
                print(f"vm: no end after {opt.timeout:g} s", file=sys.stderr)
                return 124
            finally:
                if tar is not None:
                    tar.communicate()
            log(opt, "exit status", done["exit"], "after", round(done["took"], 2), "s in the guest")
            vm.close(5)
            return int(done["exit"])
        finally:
            vm.close()


def arguments() -> Options:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, usage=argparse.SUPPRESS
    )
    p.add_argument("--user", choices=("dev", "eve", "root"), default="dev")
    p.add_argument("--share", action="append", default=[], metavar="DIR[:GUEST_PATH]")
    p.add_argument("--out", metavar="DIR", help="gets what the command left in the guest's /out")
    p.add_argument("--env", action="append", default=[], metavar="NAME=VALUE")
    p.add_argument("--setup", metavar="SCRIPT", help="what root's shell runs first, e.g. a sysctl")
    kinds = "login: in the login session itself, as over ssh; scope: in a delegated scope of the user's manager"
    p.add_argument("--session", choices=("login", "scope"), default="login", help=kinds)
    p.add_argument("--reboots", action="store_true", help="the command may reboot the guest, and is run again after it")
    p.add_argument("--mem", type=int, default=2048, metavar="MIB")
    p.add_argument("--cpus", type=int, default=2)
    p.add_argument("--timeout", type=float, default=600, metavar="S", help="for the command (default 600)")
    p.add_argument("--boot-timeout", type=float, default=300, metavar="S")
    p.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto")
    p.add_argument("--append", default="", metavar="ARGS", help="more kernel arguments")
    p.add_argument("--arch", choices=(*ARCHES,), default=HERE)
    p.add_argument("--suite", default="", help="the guest's Debian release, if not this machine's")
    p.add_argument("--console", metavar="FILE", help="keep the guest's console output")
    p.add_argument("--build", action="store_true")
    p.add_argument("-v", "--verbose", action="store_true")
    p.add_argument("command", nargs="*", metavar="COMMAND")
    opt = p.parse_args()
    if not opt.command and not opt.build:
        p.error("no COMMAND")
    opt.start = time.monotonic()
    return opt


def main() -> int:
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(arguments())
    except (Failed, OSError) as e:
        print("vm:", e, file=sys.stderr)
        return 125
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
