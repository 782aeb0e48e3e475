"""The guest's disk image: a small Debian with systemd as pid 1, made once by mmdebstrap from this machine's own apt sources.

Needs root and apt. What it makes is kept in a folder named after everything that goes into it.
"""

import fcntl
import hashlib
import json
import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

AGENT = Path(__file__).with_name("agent.py").read_text()
TOOLS = {  # program -> Debian package that has it
    "qemu-img": "qemu-utils",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "mksquashfs": "squashfs-tools",
}


class Arch(NamedTuple):
    """A machine of uname(2). early: modules between its kernel and the root disk, where they are not built in."""

    debian: str
    machine: str
    cpu: dict[str, str]
    console: str
    tools: dict[str, str]
    early: str = "virtio_blk"


ARCHES = {
    # QEMU 7.2's TCG corrupts EFLAGS after cmpxchg16b when there is more than one vCPU (random double faults, seen with Linux
    # 6.12): hide it. 5-level page tables only cost time.
    "x86_64": Arch(
        "amd64", "q35", {"kvm": "host", "tcg": "max,cx16=off,la57=off"}, "ttyS0", {"qemu-system-x86_64": "qemu-system-x86"}
    ),
    # Always emulated here. It runs 32-bit programs too; "max" does more, slowly (pointer authentication, SVE).
    "aarch64": Arch(
        "arm64", "virt,gic-version=3", {"tcg": "cortex-a76"}, "ttyAMA0",
        {"qemu-system-aarch64": "qemu-system-arm", "qemu-aarch64-static": "qemu-user-static", "arch-test": "arch-test"},
        "virtio_pci\\nvirtio_blk\\next4",
    ),
}  # fmt: skip
HERE = "x86_64"
GUEST_PACKAGES = [
    *("systemd", "systemd-sysv", "dbus", "dbus-user-session", "libpam-systemd", "udev", "kmod", "netbase"),
    *("python3", "procps", "iproute2", "uidmap", "strace", "curl"),
]
MORE_PACKAGES = {"trixie": ["apparmor"]}  # its parser is the first that knows `userns`
PYTHONS = {"bookworm": "3.11", "trixie": "3.13"}  # whose compiled modules the guest can load
# Not wanted in a guest whose clock jumps when it resumes, or that nobody logs in to.
MASKED = [
    *("apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "fstrim.timer"),
    *("systemd-tmpfiles-clean.timer", "getty@tty1.service", "serial-getty@ttyS0.service"),
]
UNIT = """[Unit]
Description=Runs what the tests ask for
[Service]
ExecStart=/usr/bin/python3 -u /usr/local/lib/vm-agent.py
StandardError=journal+console
[Install]
WantedBy=multi-user.target
"""


class Failed(Exception):
    """The VM, not the command in it, failed."""


def call(*argv: object, **kw: Any) -> str:
    """A host program's output; it is shown only if the program fails."""
    done = subprocess.run(
        [str(a) for a in argv], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        errors="replace", check=False, **kw,
    )  # fmt: skip
    if done.returncode:
        raise Failed(f"{argv[0]} failed ({done.returncode}):\n{done.stdout[-3000:]}")
    return str(done.stdout)


def digest(*what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:12]


def cached(path: Path, make: Callable[[Path], None]) -> Path:
    """path, made by make(temporary path) unless it is there; one maker at a time."""
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{path}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            tmp = path.with_name(path.name + ".tmp")
            shutil.rmtree(tmp, ignore_errors=True)
            tmp.mkdir()
            make(tmp)
            tmp.rename(path)
    return path


def cache() -> Path:
    """Where images, saved guests and sites are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "sandboxd-vm").resolve()


def missing_tools(arch: str = HERE) -> list[str]:
    """The packages that have to be installed first."""
    return sorted({package for tool, package in (TOOLS | ARCHES[arch].tools).items() if not shutil.which(tool)})


def image(suite: str = "", arch: str = HERE) -> Path:
    """The folder of the image, made if need be."""
    other = [] if arch == HERE else [arch]
    key = digest(AGENT, UNIT, MASKED, GUEST_PACKAGES, suite, *other, *MORE_PACKAGES.get(suite, []))
    name = "-".join(["image", *other, suite or "host", key])
    return cached(cache() / name, lambda folder: build_image(folder, suite, ARCHES[arch]))


def debian_sources(wanted: str) -> tuple[str, list[str]]:
    """The guest's suite, and deb lines: this machine's Debian sources and its mirror's backports."""
    call("apt-get", "update")
    entries = [
        dict(line.partition(": ")[::2] for line in text.splitlines())
        for text in call("apt-get", "indextargets", "Created-By: Packages").split("\n\n")
    ]
    entries = [e for e in entries if e.get("Origin") == "Debian" and e["Component"] == "main"]
    main = next((e for e in entries if e["Label"] == "Debian" and "-" not in e["Codename"]), None)
    if not main:
        raise Failed("this machine has no Debian apt sources to build the guest from")
    suite = wanted or main["Codename"]
    lines = [f"deb {e['Repo-URI']} {e['Codename'].replace(main['Codename'], suite, 1)} main" for e in entries]
    return suite, [*dict.fromkeys([*lines, f"deb {main['Repo-URI']} {suite}-backports main"])]


def build_image(img: Path, wanted: str, arch: Arch) -> None:
    """mmdebstrap -> a directory -> an ext4 image, beside its kernel and initrd."""
    if os.geteuid():
        raise Failed("building the image needs root, once")
    suite, sources = debian_sources(wanted)
    if suite not in PYTHONS:
        raise Failed(f"no guest of {suite} is known here: only of {', '.join(PYTHONS)}")
    (img / "python").write_text(PYTHONS[suite])
    packages = [*GUEST_PACKAGES, *MORE_PACKAGES.get(wanted, []), f"linux-image-cloud-{arch.debian}/{suite}-backports"]
    with tempfile.TemporaryDirectory(dir=img) as tmp:
        root = Path(tmp, "root")
        call(
            "mmdebstrap", "--mode=root", "--variant=minbase", f"--architectures={arch.debian}",
            "--aptopt=APT::Install-Recommends false",
            "--include=" + ",".join(packages),
            *(f"--dpkgopt=path-exclude=/usr/share/{d}/*" for d in ("doc", "man", "locale")),
            # an initrd with no more than it takes to reach the root disk
            "--essential-hook=d=$1/etc/initramfs-tools; mkdir -p $d/conf.d; echo MODULES=list >$d/conf.d/vm; "
            f"printf '{arch.early}\\n' >$d/modules",
            suite, root, *sources,
        )  # fmt: skip
        configure(root)
        boot = root / "boot"
        for name, pattern in ("vmlinuz", "vmlinuz-*"), ("initrd", "initrd.img-*"):
            shutil.copy(next(boot.glob(pattern)), img / name)
        shutil.rmtree(boot)
        boot.mkdir()
        # with a journal: a guest may be reset, and then started again from the same disk
        options = ["-q", "-t", "ext4", "-J", "size=16", "-m0", "-E", "lazy_itable_init=1"]
        call("mke2fs", *options, "-d", root, img / "base.raw", "8G")


def configure(root: Path) -> None:
    """The users, the agent, and no more than they need."""
    call("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", "dev")
    call("chroot", root, "useradd", "--create-home", "--shell", "/bin/bash", "eve")  # one whose manager does not linger
    units = root / "etc/systemd/system"
    files = {
        "var/lib/systemd/linger/dev": "",
        "var/lib/systemd/linger/root": "",
        "etc/resolv.conf": "",
        "etc/hostname": "vm\n",
        "etc/hosts": "127.0.0.1 localhost vm\n::1 localhost\n",
        "etc/machine-id": secrets.token_hex(16) + "\n",
        "etc/fstab": "/dev/vda / ext4 defaults 0 0\n",
        "etc/default/locale": "LANG=C.UTF-8\n",
        "etc/systemd/system/vm-agent.service": UNIT,
        "usr/local/lib/vm-agent.py": AGENT,
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (units / "multi-user.target.wants/vm-agent.service").symlink_to("../vm-agent.service")
    for unit in MASKED:
        (units / unit).symlink_to("/dev/null")
