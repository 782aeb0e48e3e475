"""The house as rules: what decides stays pure, arrows point one way, files stay small, every module has a test.

Read from the syntax tree, so an import inside a function counts too; only what stands under `if TYPE_CHECKING` does not run
and does not count. An exception is listed here with its reason, and one that is no longer needed fails as well.
"""

import ast
import functools
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted((ROOT / "sandboxd").rglob("*.py"))

# -- what decides ---------------------------------------------------------------------------------------------------------

PURE = (
    "spec", "specfile", "units", "egress", "settings", "config", "protocol", "lifecycle", "isolation", "routing",
    "limits.verdict", "limits.change", "limits.pace", "limits.controls", "limits.delegation", "client.session", "cli.ceilings",
    "doctor.facts", "doctor.report", "doctor.walls", "doctor.host", "doctor.service", "doctor.limits", "doctor.names",
    "doctor.fixes", "doctor.diagnosis",
)  # fmt: skip
IMPURE = {
    "os", "io", "socket", "select", "selectors", "asyncio", "time", "random", "secrets", "uuid", "ctypes", "subprocess",
    "signal", "threading", "multiprocessing", "shutil", "tempfile", "logging", "resource", "fcntl", "mmap", "psutil",
    "uvloop", "sqlite3", "sandboxd.kernel",
}  # fmt: skip
# Builtins that reach outside all the same.
IMPURE_CALLS = {"open", "print", "input", "exec", "eval"}

# -- arrows: package or top-level module -> what of ours it may import besides itself and errors ------------------------------

NOUNS = {"spec", "units", "protocol", "egress"}
ARROWS: dict[str, set[str]] = {
    "errors": set(),
    "spec": set(),
    "units": set(),
    "egress": set(),
    "settings": {"spec", "units"},
    "config": {"settings", "specfile", *NOUNS},
    "specfile": {"spec", "units", "egress"},
    "protocol": {"spec", "units"},
    "lifecycle": {*NOUNS},
    "isolation": {*NOUNS},
    "routing": {*NOUNS},
    "kernel": set(),
    "launch": {"isolation", "kernel", *NOUNS},
    "limits": {"kernel", *NOUNS},
    "network": {"kernel", *NOUNS},
    "router": {"routing", "kernel", "network", "observe", *NOUNS},
    "observe": {"kernel", *NOUNS},
    "store": {"lifecycle", "settings", "config", "specfile", "kernel", *NOUNS},
    "daemon": {
        "lifecycle", "isolation", "routing", "kernel", "launch", "limits", "network", "router", "store", "observe",
        "settings", "config", "specfile", *NOUNS,
    },
    "client": {"settings", *NOUNS},
    "doctor": {"isolation", "launch", "kernel", "network", "limits", "client", "settings", "store", *NOUNS},
    "cli": {"client", "doctor", "settings", "specfile", *NOUNS},
    "__main__": {"daemon"},
    "__init__": set(),
}  # fmt: skip
# An arrow of one module that its package does not have, and why.
DOORS: dict[tuple[str, str], str] = {}

# -- what runs as pid 1 of every env, and what a person waits for at every `sandbox ps` --------------------------------------

# Each of these costs the launcher memory and start time that every env pays for (measured: dataclasses 37 ms, asyncio 80 ms).
HEAVY_FOR_INIT = {
    "msgspec", "asyncio", "dataclasses", "inspect", "logging", "subprocess", "typing", "psutil", "uvloop", "click", "rich",
    "pathlib", "tempfile", "threading", "email", "urllib", "argparse",
}  # fmt: skip
HEAVY_FOR_PS = {
    "pathlib", "inspect", "typing_extensions",
    "asyncio", "uvloop", "psutil", "rich", "logging", "ssl", "http", "sqlite3", "tomllib", "multiprocessing", "unittest",
    "sandboxd.daemon", "sandboxd.doctor", "sandboxd.launch", "sandboxd.router", "sandboxd.lifecycle", "sandboxd.kernel",
    "sandboxd.isolation",
}  # fmt: skip

PS_AND_MODULES = """
import json, sys
from sandboxd.cli.main import main
sys.argv = ["sandbox", "ps"]
try:
    main()
finally:
    print(json.dumps(sorted(sys.modules)))
"""

# -- names that need a home -----------------------------------------------------------------------------------------------

HOMES: dict[str, tuple[str, ...]] = {
    "ctypes": ("kernel",),  # every prototype once, every errno with its hint
    # else a process without an owner
    "subprocess": ("client", "cli", "doctor.asking", "launch.client", "launch.probes", "router.handle", "router.starting"),
    "os.fork": ("launch", "kernel", "router.master"),  # a fork of the daemon copies its page tables: 10.5 ms
    "os.forkpty": (),  # the pty is opened inside, by init
    "os.system": (),
    "time.sleep": ("kernel", "launch"),  # an event can be had nearly everywhere
    "signal.signal": ("launch", "daemon", "router", "cli"),
    "pickle": (),  # runs what the peer wrote
    "marshal": (),  # the same across a border of privilege
    "shelve": (),
}
VAGUE = {"utils", "util", "helpers", "helper", "common", "manager", "base", "misc", "lib", "core", "stuff", "tools"}

# -- budgets: longest file, longest function, most arguments ----------------------------------------------------------------

MAX_LINES, MAX_FUNCTION, MAX_ARGUMENTS = 400, 60, 6
LONG_FILES: dict[str, str] = {
    "protocol/messages.py": "every message of the interface and nothing else; a reader looks for it in one place",
}
LONG_FUNCTIONS: dict[str, str] = {}
MANY_ARGUMENTS: dict[str, str] = {
    "isolation.plan.plan": "pure: whatever it decides by must come in, each by its name",
}

# Modules without a test of their own: they only start what is tested elsewhere.
NO_MIRROR = {"__main__", "router.__main__", "cli.__main__"}


def name_of(path: Path) -> str:
    """`kernel.mounts` for sandboxd/kernel/mounts.py; a package is named by itself."""
    parts = path.relative_to(ROOT / "sandboxd").with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES = {name_of(path): path for path in FILES}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    """A file's syntax tree."""
    return ast.parse(path.read_text(), str(path))


def is_typing_only(node: ast.AST) -> bool:
    """Whether this is an `if TYPE_CHECKING:` block."""
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below that can run."""
    for child in ast.iter_child_nodes(node):
        if is_typing_only(child):
            for other in child.orelse:  # type: ignore[attr-defined]
                yield other
                yield from running(other)
            continue
        yield child
        yield from running(child)


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports; `from a import b` counts as a and a.b."""
    found: set[str] = set()
    for node in running(tree_of(path)):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import hides where it points"
            found.add(node.module or "")
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def own_imports(path: Path) -> set[str]:
    """Modules of ours that a file imports, without the leading `sandboxd.`."""
    names = {name.removeprefix("sandboxd.") for name in imports(path) if name.startswith("sandboxd.")}
    return {name for name in names if name in MODULES or name.split(".")[0] in ARROWS}


def within(name: str, places: tuple[str, ...] | set[str]) -> bool:
    """Whether a dotted name is one of the places or below one."""
    return any(name == place or name.startswith(place + ".") for place in places)


def functions(path: Path) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Every function of a file with its name as `module.function`."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{name_of(path)}.{node.name}", node


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, PURE)])
def test_what_decides_is_pure(module: str) -> None:
    path = MODULES[module]
    assert not {name for name in imports(path) if within(name, IMPURE)}
    called = {node.func.id for node in running(tree_of(path)) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    assert not called & IMPURE_CALLS
    assert not [node.lineno for node in running(tree_of(path)) if isinstance(node, ast.Global)], "a global is hidden state"


@pytest.mark.parametrize("module", MODULES)
def test_arrows_point_one_way(module: str) -> None:
    package = module.partition(".")[0]
    assert package in ARROWS, f"{package} has no place on the map in ARROWS"
    allowed = {package, "errors", *ARROWS[package]}
    wrong = {other for other in own_imports(MODULES[module]) if other.split(".")[0] not in allowed}
    assert not {other for other in wrong if (module, other) not in DOORS}


def test_arrows_make_no_circle() -> None:
    waiting = {package: set(targets) - {package} for package, targets in ARROWS.items()}
    while waiting:
        free = {package for package, targets in waiting.items() if not targets & waiting.keys()}
        assert free, f"a circle among {sorted(waiting)}"
        waiting = {package: targets for package, targets in waiting.items() if package not in free}


def test_every_door_is_used() -> None:
    unused = [door for door in DOORS if door[0] not in MODULES or door[1] not in own_imports(MODULES[door[0]])]
    assert not unused


def test_modules_make_no_circle() -> None:
    """At import time, functions' own imports left out: a circle there ends in a half-made module."""
    arrows = {}
    for name, path in MODULES.items():
        targets: set[str] = set()
        for node in tree_of(path).body:
            if isinstance(node, ast.Import):
                targets.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                # `from package import module` needs the module, not what the package's own file defines
                below = {f"{node.module}.{alias.name}" for alias in node.names}
                known = {name for name in below if name.removeprefix("sandboxd.") in MODULES}
                targets |= known or {node.module or ""}
        targets = {other.removeprefix("sandboxd.") for other in targets if other.startswith("sandboxd.")}
        arrows[name] = {other for other in targets if other in MODULES and other != name}
    while arrows:
        free = {name for name, targets in arrows.items() if not targets & arrows.keys()}
        assert free, f"a circle among {sorted(arrows)}"
        arrows = {name: targets for name, targets in arrows.items() if name not in free}


@pytest.mark.parametrize("module", MODULES)
def test_names_stay_at_home(module: str) -> None:
    used = imports(MODULES[module]) | {
        ast.unparse(node)
        for node in running(tree_of(MODULES[module]))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    astray = {name: homes for name, homes in HOMES.items() if name in used and not within(module, homes)}
    assert not astray, f"{module} uses {set(astray)}, whose homes are {astray}"


@pytest.mark.parametrize("module", MODULES)
def test_modules_say_their_one_job(module: str) -> None:
    assert module.rpartition(".")[2] not in VAGUE, "name the concept"
    tree = tree_of(MODULES[module])
    words = ast.get_docstring(tree) or ""
    assert len(words) >= 20 or not tree.body, "a module opens with its one job, what it may import, its invariant"
    assert len(words.splitlines()) <= 24, "theory belongs beside the code it explains"


def test_files_are_small() -> None:
    lengths = {str(path.relative_to(ROOT / "sandboxd")): len(path.read_text().splitlines()) for path in FILES}
    long = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert not {name: length for name, length in long.items() if name not in LONG_FILES}
    assert all(length <= 800 for length in long.values()), long
    assert not LONG_FILES.keys() - long.keys(), "listed as long and no longer so"


def test_functions_are_small() -> None:
    lengths = {name: (node.end_lineno or 0) - node.lineno + 1 for path in FILES for name, node in functions(path)}
    long = {name: length for name, length in lengths.items() if length > MAX_FUNCTION}
    assert not {name: length for name, length in long.items() if name not in LONG_FUNCTIONS}
    assert not LONG_FUNCTIONS.keys() - long.keys(), "listed as long and no longer so"


def test_functions_take_few_arguments() -> None:
    counts: dict[str, int] = {}
    for path in FILES:
        for name, node in functions(path):
            given = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            counts[name] = len([argument for argument in given if argument.arg not in ("self", "cls")])
    many = {name: count for name, count in counts.items() if count > MAX_ARGUMENTS}
    assert not {name: count for name, count in many.items() if name not in MANY_ARGUMENTS}
    assert not MANY_ARGUMENTS.keys() - many.keys(), "listed as many and no longer so"


@functools.cache
def exercised() -> set[str]:
    """Full names of all modules that some test imports or names."""
    found: set[str] = set()
    for path in (ROOT / "tests").rglob("test_*.py"):
        found |= imports(path)
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and "sandboxd." in node.value:
                found |= {f"sandboxd.{name}" for name in MODULES if f"sandboxd.{name}" in node.value}
    return found


@pytest.mark.parametrize("module", [name for name, path in MODULES.items() if path.name != "__init__.py"])
def test_every_module_has_a_test(module: str) -> None:
    assert (f"sandboxd.{module}" in exercised()) != (module in NO_MIRROR), "no test imports or names it"


def loaded_after(code: str, *flags: str) -> set[str]:
    """Modules that a fresh interpreter holds after this code."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{code}\nsys.stdout.write(chr(10) + ' '.join(sys.modules))"
    done = subprocess.run([sys.executable, *flags, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.rpartition("\n")[2].split())


@pytest.mark.parametrize("module", ["launch.init", "launch.child", "launch.launcher"])
def test_pid_1_carries_little(module: str) -> None:
    """`python -I -S` and nothing heavy: each env keeps a copy of what the launcher imported."""
    loaded = loaded_after(f"import sandboxd.{module}", "-I", "-S")
    assert not {name for name in loaded if within(name, HEAVY_FOR_INIT)}
    ours = {name.removeprefix("sandboxd.") for name in loaded if name.startswith("sandboxd.")}
    assert not {name for name in ours if not within(name, ("errors", "kernel", "launch"))}


def test_ps_imports_little(daemon) -> None:
    """`sandbox ps` is on people's fingers all day."""
    done = daemon.keeper.run([sys.executable, "-c", PS_AND_MODULES], daemon.environ)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout.splitlines()[-1])
    assert not {name for name in loaded if within(name, HEAVY_FOR_PS)}
