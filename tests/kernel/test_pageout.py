"""sandboxd.kernel.pageout: a process's memory is given back where the kernel lets us, and the refusal is named where not."""

import errno
import os
import signal
import subprocess
import sys

import pytest

from sandboxd.errors import KernelError
from sandboxd.kernel.pageout import MOST_RANGES, after, page_out, private_ranges


@pytest.fixture
def sleeper():
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", "import signal; print(flush=True); signal.pause()"], stdout=-1
    )
    process.stdout.readline()
    yield process
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()


def test_what_is_mapped_is_found_without_the_kernels_own_pages(sleeper):
    ranges = private_ranges(sleeper.pid)
    assert ranges
    assert all(start % 4096 == length % 4096 == 0 for start, length in ranges)
    with open(f"/proc/{sleeper.pid}/maps", encoding="utf-8") as maps:
        vdso = next(int(line.split("-")[0], 16) for line in maps if "[vdso]" in line)
    assert vdso not in [start for start, _ in ranges]


def test_it_is_paged_out_or_refused_by_name(sleeper):
    if os.geteuid():
        with pytest.raises(KernelError) as refused:
            page_out(sleeper.pid)
        assert refused.value.errno == errno.EPERM
    else:
        assert page_out(sleeper.pid) > 0
    assert sleeper.poll() is None


def test_a_call_that_ends_early_goes_on_behind_the_range_it_ended_at():
    ranges = [(0, 10), (100, 10), (200, 10)]
    assert after(ranges, 30) == []
    assert after(ranges, 10) == [(200, 10)]
    assert after(ranges, 0) == [(100, 10), (200, 10)]
    many = [(0, 1)] * (MOST_RANGES + 5)
    assert len(after(many, MOST_RANGES)) == 5
