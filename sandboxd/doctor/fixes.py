"""Which fixes there are for what was found: the whole of what `--fix` may do, as data. Pure; `mend` carries them out."""

from sandboxd.doctor.facts import Facts, Place
from sandboxd.doctor.report import Fix
from sandboxd.doctor.walls import needs_profile, needs_sysctl


def fixes(facts: Facts) -> list[Fix]:
    """Every fix that applies, in the order in which they are done."""
    found = [
        Fix(
            id=f"sysctl.{name}", kind="sysctl", target=name, value=value, root=True, before=facts.settings.get(name, ""),
            title=f"set {name} to {value}, now and at every boot", command=f"sudo sysctl -w {name}={value}",
        )
        for name, value in needs_sysctl(facts)
    ]  # fmt: skip
    if needs_profile(facts):
        copy = facts.apparmor.copy_path
        found.append(Fix(
            id="apparmor", kind="apparmor", target=copy, value=facts.apparmor.source, root=True,
            before=facts.apparmor.copy or "no profile, no copy",
            title=f"copy {facts.apparmor.source} to {copy}, with an AppArmor profile that gives it user namespaces",
            command=f"sudo {facts.command} doctor --fix",
        ))  # fmt: skip
    for place in (facts.state, facts.runtime_place):
        found += modes(facts, place, [fix.target for fix in found])
    if facts.daemon.state == "stale":
        socket = facts.daemon.socket
        found.append(Fix(id="socket", kind="socket", target=socket, before="stale", title=f"remove the stale socket {socket}",
                         command=f"rm {socket}"))  # fmt: skip
    if facts.linger is False:
        command = f"loginctl enable-linger {facts.user}"
        found.append(Fix(id="linger", kind="linger", target=facts.user, before="off", command=command,
                         title="let your envs outlive your logout (linger)"))  # fmt: skip
    return found


def modes(facts: Facts, place: Place | None, known: list[str]) -> list[Fix]:
    """A directory of ours that others get into."""
    if place is None or place.path in known or not place.is_directory or place.error:
        return []
    if place.mode is not None and place.mode & 0o077 and place.uid == facts.uid:
        return [Fix(id=f"mode.{place.path}", kind="mode", target=place.path, value="0700", before=f"{place.mode:04o}",
                    title=f"make {place.path} yours alone", command=f"chmod 700 {place.path}")]  # fmt: skip
    return []
