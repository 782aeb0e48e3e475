"""Facts -> report: every check, the tier that holds, the fixes that there are. Pure; the order is that of importance."""

from sandboxd.doctor.facts import Facts
from sandboxd.doctor.fixes import fixes
from sandboxd.doctor.host import host
from sandboxd.doctor.limits import limits
from sandboxd.doctor.names import names
from sandboxd.doctor.report import Check, Report, is_well
from sandboxd.doctor.service import service
from sandboxd.doctor.walls import apparmor, denials, instead, tiers, walls


def diagnose(facts: Facts, level: str = "full") -> Report:
    """The report about one isolation level: full, landlock or none."""
    checks = [
        *walls(facts, level), *instead(facts), *denials(facts), *apparmor(facts), *limits(facts), *host(facts),
        *service(facts), *names(facts), *programs(facts),
    ]  # fmt: skip
    tier, all_tiers = tiers(facts, checks)
    return Report(
        version=facts.version, level=level, tier=tier, well=is_well(checks), tiers=all_tiers, checks=checks, fixes=fixes(facts)
    )


def programs(facts: Facts) -> list[Check]:
    """What people use in envs, as far as it is there; nothing of it is needed."""
    return [
        Check(id=f"program.{name}", group="programs", name=f"{name}: {said}" if said else f"{name} is not installed")
        for name, said in facts.peers.items()
    ]
