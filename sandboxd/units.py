"""Sizes and durations as people write them: "512m", "1GiB", "90s", "1h30m"; and back into words for tables and messages.

Pure; imports errors only. Sizes are bytes and every unit is binary, as docker reads them (1k = 1kb = 1KiB = 1024). Durations
are seconds. What cannot be meant raises SpecInvalid with a hint; for any text at all nothing else is raised.
"""

import math
import re

from sandboxd.errors import SpecInvalid

MAX_SIZE = (1 << 63) - 1  # what rlimits, size= of tmpfs and cgroup files can hold
MAX_DURATION = 100 * 365 * 86400.0  # past it event loops and time structs overflow

SIZE_UNITS = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
DURATION_UNITS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}

SIZE = re.compile(r"([0-9]{1,20})(?:\.([0-9]{1,20}))?[ ]?(?:([kmgtp])(?:i?b)?|(b?))", re.IGNORECASE)
DURATION = re.compile(r"(?:[0-9]{1,15}(?:\.[0-9]{1,15})?[ ]?(?:us|µs|ms|s|m|h|d|w)[ ]?)+")
DURATION_PART = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,15})?)[ ]?(us|µs|ms|s|m|h|d|w)")

SIZE_HINT = 'write bytes, or a number with a unit: "512m", "1.5g", "1GiB" (units are binary: 1k = 1024)'
DURATION_HINT = 'write seconds, or numbers with units: "90s", "1h30m", "500ms", "2d"'


def parse_size(value: object) -> int:
    """Bytes from "512m", "1GiB", "1024" or a whole number; raises SpecInvalid."""
    if isinstance(value, int) and not isinstance(value, bool):
        size = value
    elif isinstance(value, str) and (found := SIZE.fullmatch(value.strip())):
        whole, fraction, unit, plain = found.groups()
        if fraction and not unit:
            raise SpecInvalid(f"{shown(value)} is no size: bytes have no fractions", hint=SIZE_HINT)
        factor = SIZE_UNITS[(unit or plain or "").lower()]
        size = int(whole) * factor
        if fraction:
            size += int(fraction) * factor // 10 ** len(fraction)
    else:
        raise SpecInvalid(f"{shown(value)} is no size", hint=SIZE_HINT)
    if not 0 <= size <= MAX_SIZE:
        raise SpecInvalid(f"{shown(value)} is out of range for a size", hint=SIZE_HINT)
    return size


def parse_duration(value: object) -> float:
    """Seconds from "90s", "1h30m", "500ms", "30" or a number; raises SpecInvalid."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        if not 0 <= value <= MAX_DURATION:  # also false for NaN
            raise SpecInvalid(f"{shown(value)} is out of range for a duration", hint=DURATION_HINT)
        return float(value)
    if not isinstance(value, str) or len(value) > 100:
        raise SpecInvalid(f"{shown(value)} is no duration", hint=DURATION_HINT)
    text = value.strip().lower()
    if re.fullmatch(r"[0-9]{1,15}(\.[0-9]{1,15})?", text):
        seconds = float(text)
    elif DURATION.fullmatch(text):
        seconds = math.fsum(float(number) * DURATION_UNITS[unit] for number, unit in DURATION_PART.findall(text))
    else:
        raise SpecInvalid(f"{shown(value)} is no duration", hint=DURATION_HINT)
    if seconds > MAX_DURATION:
        raise SpecInvalid(f"{shown(value)} is out of range for a duration", hint=DURATION_HINT)
    return seconds


def format_size(size: float) -> str:
    """A size for people, four digits at most: 512MiB, 1.5GiB, 17B."""
    unit = "B"
    for larger in ("KiB", "MiB", "GiB", "TiB", "PiB"):
        if round(size) < 1024:
            break
        size /= 1024
        unit = larger
    return f"{size:.4g}{unit}" if unit != "B" else f"{round(size)}B"


def format_duration(seconds: float) -> str:
    """A duration for people: 250ms, 1.5s, 12s, 1m30s, 2h, 3d4h (two units at most)."""
    if seconds < 0.9995:
        return f"{round(seconds * 1000)}ms" if seconds > 0 else "0s"
    if seconds < 9.95:
        return f"{seconds:.1f}".removesuffix(".0") + "s"
    left = round(seconds)
    parts = []
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, left = divmod(left, length)
        if count:
            parts.append(f"{count}{unit}")
        elif parts:
            break
        if len(parts) == 2:
            break
    return "".join(parts)


def shown(value: object) -> str:
    """A value in a message: quoted, and never longer than a line."""
    if isinstance(value, int) and abs(value) >= 1 << 128:  # the repr of a huge int is slow, and refused past 4,300 digits
        return "a huge number"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
