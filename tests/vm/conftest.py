"""The guest's results, for the tests here: each kind of guest is run once, with all the checks that were asked for."""

import os
from collections.abc import Callable

import pytest

from tests.require import unmet
from tests.vm import guests
from tests.vm.guests import Check, Result

said: dict[str, str] = {}


@pytest.fixture(scope="session")
def in_guest(request: pytest.FixtureRequest) -> Callable[[Check], Result]:
    """How a check ended in the guest."""
    found: dict[str, dict[tuple[str, str], Result]] = {}

    def result(check: Check) -> Result:
        if check.variant not in found:
            variant = guests.VARIANTS[check.variant]
            if variant.rare and not os.environ.get("SANDBOXD_VM_RARE"):
                pytest.skip(f"the guest {check.variant} takes minutes: SANDBOXD_VM_RARE=1 runs it")
            if why := guests.unavailable(variant.arch):
                unmet("vm", why)
            items = [item for item in request.session.items if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
            asked = [item.callspec.params.get("check") for item in items]
            found[check.variant] = {}  # a guest that fails is not tried again
            wanted = [other for other in asked if isinstance(other, Check) and other.variant == check.variant]
            found[check.variant], said[check.variant] = guests.run(check.variant, wanted)
        if (check.file, check.name) not in found[check.variant]:
            pytest.fail(f"the guest has no result of {check.id}; it said:\n{said.get(check.variant, 'nothing: see above')}")
        return found[check.variant][check.file, check.name]

    return result


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What each guest said, times included."""
    for variant, text in said.items():
        terminalreporter.section(f"guest {variant}")
        terminalreporter.write(text if terminalreporter.verbosity > 0 else "\n".join(text.strip().splitlines()[-2:]))
        terminalreporter.write("\n")
