"""What the guest's results mean here: one bad one among those of a check counts, and a check without VARIANTS is an error."""

from pathlib import Path

from tests.vm import guests

RESULTS = """<testsuites><testsuite>
<testcase file="tests/vm/guest/check_a.py" name="test_good" time="1.5"/>
<testcase file="tests/vm/guest/check_a.py" name="test_many[1]" time="1"/>
<testcase file="tests/vm/guest/check_a.py" name="test_many[2]" time="1"><failure message="no">assert 0</failure></testcase>
<testcase file="tests/vm/guest/check_a.py" name="test_many[3]" time="1"/>
<testcase file="tests/vm/guest/check_a.py" name="test_after" time="1"><error message="left">at teardown</error></testcase>
<testcase file="tests/vm/guest/check_a.py" name="test_none" time="0"><skipped message="why">there</skipped></testcase>
</testsuite></testsuites>"""


def test_results_are_read(tmp_path: Path) -> None:
    (tmp_path / "results.xml").write_text(RESULTS)
    found = guests.read(tmp_path / "results.xml")
    assert {name: result.outcome for (_, name), result in found.items()} == {
        "test_good": "passed",
        "test_many": "failed",
        "test_after": "failed",
        "test_none": "skipped",
    }
    assert "assert 0" in found["check_a.py", "test_many"].text
    assert found["check_a.py", "test_good"].seconds == 1.5


def test_every_check_names_a_known_kind_of_host() -> None:
    found = list(guests.checks())
    assert {check.variant for check in found} <= set(guests.VARIANTS)
    assert len({check.id for check in found}) == len(found) > 0
    assert {check.file for check in found} == {path.name for path in guests.GUEST.glob("check_*.py")}
