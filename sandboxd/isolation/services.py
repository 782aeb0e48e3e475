"""What init is told: each service's command, environment, directory and rlimits, as plain data.

Pure. An env's variables are built from nothing: of the caller's environment only language, terminal and time zone go along,
since everything else (tokens, agents' sockets, proxies) is the host's business. rlimits are
those that `enforcement` says.
"""

import posixpath
from collections.abc import Mapping, Sequence

import msgspec

from sandboxd.egress import PROXY, PROXY_PORT, given
from sandboxd.errors import SpecInvalid
from sandboxd.isolation.facts import PlaceFacts
from sandboxd.isolation.steps import AnyStep
from sandboxd.spec import EnvSpec, Service

DEFAULT_PORT = 8080
HANDED_ON = ("LANG", "LANGUAGE", "TERM", "COLORTERM", "TZ")
LOG_LIMIT = 5 << 20


class ServicePlan(msgspec.Struct, frozen=True, kw_only=True):
    """One service as init starts it. rlimits: name without RLIMIT_ -> (soft, hard). confine: steps of its own process."""

    name: str
    argv: list[str]
    env: dict[str, str]
    workdir: str
    tty: bool = False
    stdin: bool = False
    rlimits: dict[str, tuple[int, int]] = {}
    umask: int = 0o022
    rows: int = 24
    cols: int = 80
    confine: list[AnyStep] = []


class InitConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What init starts with. start: services executed at once; slow: what happens to a lagging reader, by service.

    refusals: the rules by which it answers refused system calls, as JSON that it reads only when there is one. sift: programs
    get a second filter, against the call by which pid 1 makes them in their control group. forward: ports of its loopback on
    which it listens for the relay; paths: where it does as Unix sockets.
    """

    id: str
    name: str
    services: dict[str, ServicePlan]
    start: list[str] = []
    log_limit: int = LOG_LIMIT
    slow: dict[str, str] = {}
    refusals: str = ""
    sift: bool = False
    forward: list[int] = []
    paths: list[str] = []
    version: int = 1


def service_plans(
    spec: EnvSpec,
    shared: dict[str, str],
    limits: dict[str, tuple[int, int]],
    place: PlaceFacts,
    confine: Sequence[AnyStep] = (),
) -> dict[str, ServicePlan]:
    """Every service of the spec; raises SpecInvalid for what no exec can carry. shared: variables that all of them have."""
    plans = {label: service_plan(label, service, shared, limits, place) for label, service in spec.services.items()}
    return {label: msgspec.structs.replace(made, confine=[*confine]) for label, made in plans.items()} if confine else plans


def service_plan(
    label: str, service: Service, shared: dict[str, str], limits: dict[str, tuple[int, int]], place: PlaceFacts
) -> ServicePlan:
    """One service."""
    argv = ["/bin/sh", "-c", service.command] if isinstance(service.command, str) else list(service.command)
    env = {"PORT": str(service.port or DEFAULT_PORT), **shared, **service.env}
    home = place.workspace or place.home
    workdir = posixpath.normpath(posixpath.join(home, service.workdir or "."))
    if not argv or not argv[0]:
        raise SpecInvalid(
            f"service {label} has an empty command", hint="give the program to run", key=f"services.{label}.command"
        )
    for text in [*argv, *env, *env.values(), workdir]:
        if "\0" in text:
            raise SpecInvalid(f"service {label} has a NUL byte in its command, environment or workdir", key=f"services.{label}")
    for key in env:
        if not key or "=" in key:
            raise SpecInvalid(
                f"service {label}: {key!r} cannot be the name of an environment variable", key=f"services.{label}.env"
            )
    return ServicePlan(
        name=label, argv=argv, env=env, workdir=workdir, tty=service.tty, stdin=service.stdin or service.tty, rlimits=limits
    )


def environment(spec: EnvSpec, name: str, place: PlaceFacts, environ: Mapping[str, str], url: str) -> dict[str, str]:
    """The variables that all services share."""
    own = {
        "PATH": place.path,
        "HOME": place.home,
        "USER": place.user,
        "LOGNAME": place.user,
        "SHELL": "/bin/sh",
        "LANG": "C.UTF-8",
        "TERM": "xterm-256color",
        "HOSTNAME": name,
        "SANDBOXD_ENV": name,
    }
    if url:
        own["SANDBOXD_URL"] = url
    if spec.network.mode == "private" and PROXY in given(spec.network.egress):
        own |= proxy_variables()
    along = {key: value for key, value in environ.items() if key in HANDED_ON or key.startswith("LC_")}
    return {**own, **along, **spec.env}


def proxy_variables() -> dict[str, str]:
    """What programs obey that know of proxies: curl, git, pip, apt and wget in small letters, Node (>= 24) when told to."""
    http, socks = f"http://127.0.0.1:{PROXY_PORT}", f"socks5h://127.0.0.1:{PROXY_PORT}"
    named = {"HTTP_PROXY": http, "HTTPS_PROXY": http, "ALL_PROXY": socks, "NO_PROXY": "localhost,127.0.0.1,::1"}
    return {**named, **{key.lower(): value for key, value in named.items()}, "NODE_USE_ENV_PROXY": "1"}


def roots(spec: EnvSpec) -> list[str]:
    """The services that wait for no other: init starts them at once."""
    return [label for label, service in spec.services.items() if not service.depends_on]
