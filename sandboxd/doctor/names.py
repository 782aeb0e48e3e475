"""How NAME.localhost resolves: for the system, curl, Node, Java, browsers, Safari and its kin, and what would mend it. Pure.

RFC 6761 section 6.3 says that names below localhost SHOULD be answered with loopback by every resolver library, and few do.
Chrome, Edge and Firefox (since 84) do it themselves; curl since 7.85; Node asks getaddrinfo(3) (`dns.lookup`), as do Java's
InetAddress and WebKit (Safari, GNOME Web). For getaddrinfo the plug-in nss-myhostname does it, or systemd-resolved.
"""

from sandboxd.doctor.facts import Facts, Lookup, NameFacts
from sandboxd.doctor.report import Check

WORDS = {"getaddrinfo": "programs that ask the system (getaddrinfo: Python, ssh, git, …)", "curl": "curl", "node": "Node.js"}
DOCUMENTED = {
    "java": "Java (InetAddress)",
    "safari": "Safari-like browsers (WebKit: GNOME Web)",
}
ENABLE = "sudo sed -i '/^hosts:/ s/files/files myhostname/' /etc/nsswitch.conf"
INSTALL = {
    "debian": "sudo apt install libnss-myhostname",
    "ubuntu": "sudo apt install libnss-myhostname",
    "fedora": "sudo authselect enable-feature with-mdns4; " + ENABLE,
    "suse": "sudo zypper install nss-myhostname",
}


def names(facts: Facts) -> list[Check]:
    """A check for each resolver: those that are here were asked, of the others it is known what they ask."""
    found = facts.names
    fix = remedy(found, facts.family)
    checks = [asked(lookup, fix) for lookup in found.lookups]
    system = next((lookup for lookup in found.lookups if lookup.program == "getaddrinfo"), None)
    if system is not None:
        for program, name in DOCUMENTED.items():
            good = bool(system.resolved)
            checks.append(Check(
                id=f"names.{program}", group="names", name=name, status="ok" if good else "warn", offered=good,
                reason="asks the system's resolver", fix="" if good else fix,
            ))  # fmt: skip
    browsers = "Chrome, Edge, Firefox"
    checks.append(
        Check(id="names.browsers", group="names", name=browsers, offered=True, reason="resolve *.localhost themselves")
    )
    return checks


def asked(lookup: Lookup, fix: str) -> Check:
    """A resolver that was asked."""
    name = WORDS.get(lookup.program, lookup.program)
    if lookup.program in ("curl", "node") and lookup.version:
        name = f"{name} {lookup.version.removeprefix('v')}"
    if lookup.resolved:
        return Check(id=f"names.{lookup.program}", group="names", name=name, offered=True)
    said = f": {lookup.answer}" if lookup.answer else ""
    if lookup.program == "curl":
        why = f"it resolves *.localhost by itself only since 7.85{said}"
        fix = f"curl --resolve NAME.localhost:7070:127.0.0.1 …; or {fix}"
    else:
        why = f"NAME.localhost does not resolve{said}"
    return Check(id=f"names.{lookup.program}", group="names", name=name, status="warn", offered=False, reason=why, fix=fix)


def remedy(found: NameFacts, family: str) -> str:
    """What makes the system's resolver answer; by hand, a line for each name does it too."""
    if not found.nsswitch:  # musl and others without nsswitch
        return "echo '127.0.0.1 NAME.localhost' | sudo tee -a /etc/hosts"
    if found.myhostname:
        return (
            ENABLE if "myhostname" not in found.nsswitch else "getent ahosts NAME.localhost should answer: see nsswitch.conf(5)"
        )
    install = next((command for name, command in INSTALL.items() if name in family.split()), "install nss-myhostname (systemd)")
    return f"{install} (or, for one name: echo '127.0.0.1 NAME.localhost' | sudo tee -a /etc/hosts)"
