"""Whether a daemon can live here: the one of these settings, others, its address, and what happens at logout. Pure."""

from sandboxd.doctor.facts import Address, Facts
from sandboxd.doctor.host import places
from sandboxd.doctor.report import Check
from sandboxd.settings import LOG_HINT


def service(facts: Facts) -> list[Check]:
    """Everything about the daemon."""
    return [daemon(facts), *version(facts), *others(facts), *places(facts), *ports(facts), *session(facts), *leaks(facts)]


def daemon(facts: Facts) -> Check:
    """The control socket."""
    found = facts.daemon
    id, group = "daemon.socket", "daemon"
    if found.state == "alive":
        envs = ", ".join(f"{count} {state}" for state, count in found.envs.items() if count) or "no envs"
        return Check(id=id, group=group, name=f"the daemon runs: pid {found.pid}, {envs}", offered=True)
    if found.state == "none":
        return Check(id=id, group=group, name="no daemon runs; the first command starts one", offered=True)
    if found.state == "stale":
        return Check(id=id, group=group, name=f"stale socket {found.socket}", status="note", offered=True, fixable="user",
                     reason="a daemon that was killed left it; the next one replaces it", fix=f"rm {found.socket}")  # fmt: skip
    if found.state == "foreign":
        return Check(id=id, group=group, name=f"socket {found.socket}", status="fail", offered=False, reason=found.said,
                     fix="set XDG_RUNTIME_DIR or SANDBOXD_DIR to a directory of your own")  # fmt: skip
    return Check(
        id=id, group=group, name=f"socket {found.socket}", status="fail", offered=False,
        reason=f"a daemon is there but does not answer: {found.said}", fix=f"{LOG_HINT}; end it",
    )  # fmt: skip


def version(facts: Facts) -> list[Check]:
    """An upgrade leaves the old daemon running until it is restarted."""
    found = facts.daemon
    if found.state != "alive" or found.version == facts.version:
        return []
    why = f"the daemon that runs is {found.version}, this command is {facts.version}"
    return [Check(id="daemon.version", group="daemon", name="versions differ", status="warn", reason=why,
                  fix="sandbox daemon stop; sandbox daemon start (envs run on)")]  # fmt: skip


def others(facts: Facts) -> list[Check]:
    """Daemons beside this one: fine if wanted."""
    if not facts.daemon.others:
        return []
    why = f"{', '.join(facts.daemon.others)}: each has its own envs"
    return [Check(id="daemon.others", group="daemon", name="other daemons of yours run", status="note", reason=why)]


def ports(facts: Facts) -> list[Check]:
    """The router's addresses; held by our own router is as it should be."""
    return [port(facts, address) for address in facts.addresses]


def port(facts: Facts, found: Address) -> Check:
    """One address."""
    id, name = f"daemon.port.{found.address}", f"router on {found.address}"
    if not found.error:
        return Check(id=id, group="daemon", name=f"{name}: free", offered=True)
    if found.ours and (facts.daemon.state == "alive" or not facts.daemon.others):
        return Check(id=id, group="daemon", name=f"{name}: ours", offered=True)
    who = f"{found.holder} has it" if found.holder else f"{found.error}; who has it is not ours to know"
    return Check(id=id, group="daemon", name=name, status="fail", offered=False, reason=who,
                 fix="end that process, or set SANDBOXD_LISTEN=127.0.0.1:PORT")  # fmt: skip


def session(facts: Facts) -> list[Check]:
    """What a logout does: systemd ends a user's processes and removes XDG_RUNTIME_DIR unless they linger (loginctl(1))."""
    checks = []
    if not facts.runtime and facts.uid:  # root's is /run/sandboxd
        why = "the control socket is below /tmp, in a directory of ours alone (0700); that works"
        checks.append(Check(id="daemon.xdg", group="daemon", name="XDG_RUNTIME_DIR is not set", status="note", reason=why))
    if facts.linger is False:
        why = "at your last logout systemd ends your processes, envs among them"
        checks.append(Check(id="daemon.linger", group="daemon", name="linger is off", status="note", reason=why,
                            fix=f"loginctl enable-linger {facts.user}", fixable="user"))  # fmt: skip
    return checks


def leaks(facts: Facts) -> list[Check]:
    """What the next daemon would sweep or adopt."""
    checks = []
    if facts.daemon.strays:
        why = f"{len(facts.daemon.strays)} env directories belong to no env (the first: {facts.daemon.strays[0]})"
        checks.append(Check(id="daemon.strays", group="daemon", name="leftovers", status="note", reason=why,
                            fix="sandbox daemon stop; sandbox daemon start (a daemon that starts removes them)"))  # fmt: skip
    if facts.daemon.orphans:
        why = f"{', '.join(facts.daemon.orphans[:5])}: they run on, and the next daemon finds them"
        checks.append(Check(id="daemon.orphans", group="daemon", name="envs without a daemon", status="note", reason=why,
                            fix="sandbox daemon start"))  # fmt: skip
    return checks
