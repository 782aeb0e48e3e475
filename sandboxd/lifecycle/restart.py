"""When an ended service is started again, and after how long. Pure arithmetic; the policies are docker's."""

from typing import NamedTuple

FIRST_DELAY = 0.1
LONGEST_DELAY = 60.0
STEADY_AFTER = 10.0  # seconds up after which earlier failures are forgotten, as docker does


class Policy(NamedTuple):
    """no | on-failure[:most] | always | unless-stopped; most 0: without end."""

    kind: str
    most: int = 0


def parse_policy(text: str) -> Policy:
    """Read what `spec.Lifecycle.restart` has checked."""
    kind, _, most = text.partition(":")
    return Policy(kind, int(most) if most else 0)


def wants_restart(policy: Policy, exit_code: int, failures: int) -> bool:
    """Whether a service that ended by itself is started again. failures: ends in a row before this one."""
    match policy.kind:
        case "always" | "unless-stopped":
            return True
        case "on-failure":
            return exit_code != 0 and (not policy.most or failures < policy.most)
        case _:
            return False


def delay(failures: int) -> float:
    """Seconds before the next start: 0.1, 0.2, 0.4 … 60."""
    return float(min(FIRST_DELAY * 2 ** min(failures, 16), LONGEST_DELAY))


def failures_after(failures: int, uptime: float) -> int:
    """Ends in a row, counting this one; a service that was up long enough starts from one again."""
    return 1 if uptime >= STEADY_AFTER else failures + 1
