"""What needs systemd and cgroup v2: the checks of tests/vm/guest, each shown as a test here."""

from collections.abc import Callable

import pytest

from tests.vm import guests
from tests.vm.guests import Check, Result


@pytest.mark.vm
@pytest.mark.timeout(3300)  # the first of a guest waits for all of that guest's
@pytest.mark.parametrize("check", [*guests.checks()], ids=lambda check: check.id)
def test_guest(check: Check, in_guest: Callable[[Check], Result], record_property: Callable[[str, object], None]) -> None:
    result = in_guest(check)
    record_property("guest seconds", result.seconds)
    if result.outcome == "skipped":
        pytest.skip(result.text.strip())
    assert result.outcome == "passed", f"in the guest, after {result.seconds:.1f} s:\n{result.text}"
