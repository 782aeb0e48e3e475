"""Runs checks of tests/vm/guest in a guest, as one pytest there, and brings the result of each back.

What the guest has of ours: a compiled copy of the checkout, and the dependencies, installed here for the guest's Python.
"""

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal, NamedTuple

from tests.vm.image import HERE, Failed, cache, cached, call, digest, image, missing_tools

ROOT = Path(__file__).resolve().parent.parent.parent
GUEST = Path(__file__).with_name("guest")
NEEDED = ["pytest>=8", "pytest-timeout>=2.3", "hypothesis>=6.100"]
LEFT_OUT = shutil.ignore_patterns(".git", ".venv", "node_modules", "__pycache__", ".*_cache", ".hypothesis")
PLATFORMS = ("manylinux_2_28_{}", "manylinux2014_{}", "any")  # of a machine
# As an installed package has them.
COMMANDS = {"sandbox": "sandboxd.cli.main", "sandboxd": "sandboxd.daemon.main"}


class Variant(NamedTuple):
    """A kind of host: whose session the checks run in, and what root does before."""

    user: str = "dev"
    session: Literal["login", "scope"] = "login"
    setup: str = ""
    suite: str = ""
    append: str = ""
    reboots: bool = False
    arch: str = HERE
    rare: bool = False  # it takes minutes, or an image of its own: only where SANDBOXD_VM_RARE is set


VARIANTS = {
    "systemd": Variant(),
    "no-linger": Variant(user="eve"),
    "no-userns": Variant(setup="sysctl -qw user.max_user_namespaces=0"),
    "root": Variant(user="root"),
    "reboot": Variant(user="root", reboots=True, rare=True),  # two boots, of minutes each where nothing else has its time
    "apparmor": Variant(user="root", suite="trixie", rare=True),
    "box": Variant(user="root", rare=True),  # beside a busy suite its one check takes a quarter of an hour
    # The project's own tests start programs that take no PYTHONPATH.
    "aarch64": Variant(setup="echo /share/site >/usr/lib/python3/dist-packages/site.pth", arch="aarch64", rare=True),
}


class Check(NamedTuple):
    """One test function of the guest's, on one kind of host."""

    variant: str
    file: str
    name: str

    @property
    def id(self) -> str:
        return f"{self.variant}-{self.file.removesuffix('.py').removeprefix('check_')}-{self.name.removeprefix('test_')}"


class Result(NamedTuple):
    """How a check ended, its seconds in the guest, and what it said."""

    outcome: Literal["passed", "failed", "skipped"]
    seconds: float
    text: str


def checks() -> Iterator[Check]:
    """Every test of every check_*.py, once for each of the file's VARIANTS; nothing is imported or run for it."""
    for path in sorted(GUEST.glob("check_*.py")):
        body = ast.parse(path.read_text()).body
        values = {t.id: n.value for n in body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)}
        for variant in ast.literal_eval(values["VARIANTS"]):
            for node in body:
                if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                    yield Check(variant, path.name, node.name)


def unavailable(arch: str = HERE) -> str:
    """Why no guest of that machine can be had here; empty when one can."""
    os.environ["PATH"] = os.environ.get("PATH", "/usr/bin:/bin") + ":/usr/sbin:/sbin"
    if os.uname().machine != HERE:
        return f"the systemd guest is for {HERE}"
    if missing := missing_tools(arch):
        return f"the systemd guest needs {', '.join(missing)}"
    if os.geteuid() and not list(cache().glob("image-*/python")):
        return f"the systemd guest's image is made by root, and there is none in {cache()}"
    return ""


def site(version: str, arch: str) -> Path:
    """A folder with what sandboxd and its checks import, for that Python on that machine."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"] + NEEDED

    def install(folder: Path) -> None:
        options = ["--quiet", "--disable-pip-version-check", "--only-binary=:all:", "--python-version", version]
        options += [word for platform in PLATFORMS for word in ("--platform", platform.format(arch))]
        options += [] if version == here() else ["--no-compile"]
        call(sys.executable, "-m", "pip", "install", *options, "--target", folder, *wanted)

    other = "" if arch == HERE else f"{arch}-"
    return cached(cache() / f"site-{other}{version}-{digest(wanted)}" / "site", install)


def here() -> str:
    """This Python's version as the guest's is named: where they agree, what one compiled the other loads."""
    return "{}.{}".format(*sys.version_info)


def run(name: str, wanted: Iterable[Check]) -> tuple[dict[tuple[str, str], Result], str]:
    """The results by (file, name), and what the guest's pytest printed; raises Failed."""
    with tempfile.TemporaryDirectory(prefix="sandboxd-vm-") as tmp:
        out = Path(tmp, "out")
        command = ["python3", "-m", "pytest", "-q", "-c", "/dev/null", "--rootdir", "tests/vm/guest", "--tb=short"]
        command += ["-p", "no:cacheprovider", "--import-mode=importlib", "--confcutdir", "tests/vm/guest", "--timeout", "900"]
        command += ["-o", "junit_family=xunit1", "--junitxml", "/out/results.xml", "--durations", "0", "--durations-min", "1"]
        command += sorted({f"tests/vm/guest/{check.file}::{check.name}" for check in wanted})
        start = time.monotonic()
        done = command_in(VARIANTS[name], command, out)
        said = f"{done.stdout}{done.stderr}\n{time.monotonic() - start:.0f} s in all"
        if not (out / "results.xml").exists():
            raise Failed(f"the guest {name} brought no results (exit status {done.returncode}):\n{said}")
        return read(out / "results.xml"), said


def command_in(variant: Variant, command: Iterable[str], out: Path) -> "subprocess.CompletedProcess[str]":
    """Run a command in a guest, in a copy of the checkout with sandboxd installed; what it leaves in /out comes to `out`."""
    version = (image(variant.suite, variant.arch) / "python").read_text()
    with tempfile.TemporaryDirectory(prefix="sandboxd-vm-") as tmp:
        copy = Path(tmp, "checkout")
        shutil.copytree(ROOT, copy, ignore=LEFT_OUT)
        (copy / "commands").mkdir()
        for program, module in COMMANDS.items():
            (copy / "commands" / program).write_text(f"#!/usr/bin/python3\nfrom {module} import main\nmain()\n")
            (copy / "commands" / program).chmod(0o755)
        if version == here():
            places = [copy / "sandboxd", copy / "tests"]
            call(sys.executable, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", *places)
        setup = f"cp /share/checkout/commands/* /usr/bin\n{variant.setup}"
        argv = [sys.executable, str(Path(__file__).with_name("machine.py")), "--user", variant.user]
        argv += ["--session", variant.session, "--setup", setup, "--suite", variant.suite, "--append", variant.append]
        argv += ["--arch", variant.arch, *(["--reboots"] if variant.reboots else [])]
        argv += ["--share", str(copy), "--share", str(site(version, variant.arch)), "--out", str(out)]
        argv += ["--timeout", "3000" if variant.reboots else "1500"]
        argv += ["--env", "PYTHONPATH=/share/checkout:/share/site"]
        argv += ["--env", f"SANDBOXD_REQUIRE={os.environ.get('SANDBOXD_REQUIRE', '')}", "--", *command]
        return subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)


def read(path: Path) -> dict[tuple[str, str], Result]:
    """pytest's JUnit file; of a parametrised test the worst outcome counts."""
    results: dict[tuple[str, str], Result] = {}
    for case in ET.parse(path).iter("testcase"):
        key = (Path(case.get("file") or "").name, (case.get("name") or "").partition("[")[0])
        found = Result("passed", float(case.get("time") or 0), "")
        for element, outcome in ("skipped", "skipped"), ("failure", "failed"), ("error", "failed"):
            if (node := case.find(element)) is not None:
                found = Result(outcome, found.seconds, f"{node.get('message')}\n{node.text or ''}")  # type: ignore[arg-type]
        worse = key not in results or results[key].outcome != "failed"
        results[key] = found if worse else results[key]
    return results
