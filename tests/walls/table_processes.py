"""Attempts on processes: pid 1, the host's and other envs'. `{init}` is pid 1 inside and a bystander outside."""
# ruff: noqa: E501 - a row is read across, as a table's

from tests.walls.attempts import CAPABLE, NO_WALLS, OUTSIDE, Attempt

PTRACE_ATTACH = 16
SEIZE = ["on_child", "seize", None]
SIGNAL = ["on_child", "kill", None, 0]

INIT = [
    Attempt("memory of pid 1", ["read", "/proc/{init}/mem"], "EACCES", OUTSIDE, "EIO", ["on_child", "seize", None]),
    Attempt("write its memory", ["write", "/proc/{init}/mem", 1], "EACCES", OUTSIDE, "EIO", ["read", "/proc/{init}/stat"]),
    Attempt("its environment", ["read", "/proc/{init}/environ"], "EACCES", OUTSIDE, "ok", ["read", "/proc/self/environ"]),
    Attempt("its maps", ["read", "/proc/{init}/maps"], "EACCES", OUTSIDE, "ok", ["read", "/proc/self/maps"]),
    Attempt("its interpreter", ["readlink", "/proc/{init}/exe"], "EACCES", OUTSIDE, "ok", ["readlink", "/proc/self/exe"]),
    Attempt("open its interpreter", ["access", "/proc/{init}/exe"], "EACCES", OUTSIDE, "ok", ["access", "/proc/self/exe"]),
    Attempt("overwrite it (CVE-2019-5736)", ["write", "/proc/{init}/exe", 1], "EACCES", OUTSIDE, "ETXTBSY", ["access", "/proc/self/exe"]),
    Attempt("its namespaces", ["readlink", "/proc/{init}/ns/user"], "EACCES", OUTSIDE, "ok", ["readlink", "/proc/self/ns/user"]),
    Attempt("its stack", ["read", "/proc/{init}/syscall"], "EACCES|EPERM", OUTSIDE, "ok", ["read", "/proc/self/syscall"]),
    Attempt("trace pid 1", ["seize", "{init}"], "EPERM", OUTSIDE, "ok", SEIZE),
    Attempt("attach to pid 1", ["syscall", "ptrace", PTRACE_ATTACH, "{init}", 0, 0], "EPERM", OUTSIDE, "ok", SEIZE),
    Attempt("read its memory", ["remote", "{init}", False], "EPERM", OUTSIDE, "EFAULT|ok", ["on_child", "remote", None, False]),
    Attempt("write into it", ["remote", "{init}", True], "EPERM", OUTSIDE, "EFAULT|ok", ["on_child", "remote", None, True]),
    Attempt("take its descriptors", ["pidfd_call", "pidfd_getfd", "{init}", 0, 0], "EPERM", OUTSIDE, "ok",
            ["on_child", "pidfd_call", "pidfd_getfd", None, 0, 0]),
    Attempt("advise its memory away", ["pidfd_call", "process_madvise", "{init}", ["QQ", 0, 0], 1, 21, 0], "EACCES", OUTSIDE, "ok|EPERM|EINVAL",
            SIGNAL),
    Attempt("compare with it", ["syscall", "kcmp", "{init}", "{init}", 1, 0, 0], "EPERM", OUTSIDE, "ok", SIGNAL),
    Attempt("prlimit on pid 1", ["limit", "{init}", "NOFILE", 4096], "EPERM", OUTSIDE, "ok", ["limit", 0, "NOFILE", 4096], "seccomp"),
    Attempt("prlimit CPU on pid 1", ["limit", "{init}", "CPU", 100000], "EPERM", OUTSIDE, "ok", ["limit", 0, "CPU", 100000], "seccomp"),
    Attempt("nice on pid 1", ["nice", "{init}", 1], "EPERM|EACCES", OUTSIDE, "ok", ["nice", 0, 1], "seccomp"),
    Attempt("affinity of pid 1", ["affinity", "{init}"], "EPERM", OUTSIDE, "ok", ["affinity", 0], "seccomp"),
    Attempt("scheduler of pid 1", ["scheduler", "{init}"], "EPERM", OUTSIDE, "ok", ["scheduler", 0], "seccomp"),
    Attempt("priority of its input", ["syscall", "ioprio_set", 1, "{init}", (2 << 13) | 7], "EPERM", OUTSIDE, "ok",
            ["syscall", "ioprio_set", 1, 0, (2 << 13) | 7], "seccomp"),
    Attempt("its oom score", ["write", "/proc/{init}/oom_score_adj", 1, "500"], "EACCES|EPERM", OUTSIDE, "ok",
            ["write", "/proc/self/oom_score_adj", 1, "500"]),
    Attempt("its title", ["write", "/proc/{init}/comm", 1, "x"], "EACCES", OUTSIDE, "EINVAL|ok", ["write", "/proc/self/comm", 1, "x"]),
]  # fmt: skip

OTHERS = [
    Attempt(f"{act[0]} {whom}", [act[0], *["{" + whom + "}" if part is None else part for part in act[1:]]], missing, OUTSIDE, works, neighbour)
    for whom in ("bystander", "daemon_pid", "launcher_pid", "router_pid", "other_pid")
    for act, missing, works, neighbour in (
        (["kill", None, 0], "ESRCH", "ok", SIGNAL),
    )
] + [
    Attempt("trace the host's", ["seize", "{bystander}"], "ESRCH", NO_WALLS, "ok", SEIZE),
    Attempt("trace another env's", ["seize", "{other_pid}"], "ESRCH", OUTSIDE, "ok", SEIZE),
    Attempt("a pidfd of the host's", ["syscall", "pidfd_open", "{bystander}", 0], "ESRCH|EINVAL", OUTSIDE, "ok", ["syscall", "pidfd_open", "{init}", 0]),
    Attempt("read the host's memory", ["remote", "{bystander}", False], "ESRCH", OUTSIDE, "EFAULT|ok", ["on_child", "remote", None, False]),
    Attempt("limits of the host's", ["limit", "{bystander}", "NOFILE", 4096], "ESRCH|EPERM", OUTSIDE, "ok", ["limit", 0, "NOFILE", 4096]),
    Attempt("nice on the host's", ["nice", "{bystander}", 0], "ESRCH|EPERM", NO_WALLS, "ok", ["nice", 0, 5]),
    Attempt("the host's processes", ["access", "/proc/{bystander}"], "ENOENT", NO_WALLS, "ok", ["access", "/proc/self"]),
]  # fmt: skip

PR_SET_PDEATHSIG, PR_CAPBSET_DROP, PR_SET_SECUREBITS = 1, 24, 28
OWN = ["prctl", PR_SET_PDEATHSIG, 9]
ITSELF = [
    Attempt("its bounding set", ["prctl", PR_CAPBSET_DROP, 0], "EPERM", CAPABLE, "ok", OWN),
    Attempt("its secure bits", ["prctl", PR_SET_SECUREBITS, 1], "EPERM", CAPABLE, "ok", OWN),
]

PROCESSES = [*INIT, *OTHERS, *ITSELF]
