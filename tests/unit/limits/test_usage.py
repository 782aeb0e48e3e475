"""A sample's one derived number."""

from msgspec import structs

from sandboxd.limits.usage import Sample


def test_memory_counts_what_is_known_and_nothing_twice():
    seen = Sample(rss=100, tmpfs=10, pids=1, cpu_seconds=0.0, io_read=0, io_write=0, now=0.0)
    assert seen.memory == 110
    assert structs.replace(seen, pss=60).memory == 70
    assert structs.replace(seen, pss=60, mapped=4).memory == 66
