"""Imports msgspec without typing_extensions, for `sandbox ps`: the CLI imports this before anything that imports msgspec.

Where typing_extensions is installed msgspec takes three names from it, and it imports inspect, ast and linecache: a third of
what `ps` imports (measured). From Python 3.11 on `typing` has all three, and msgspec takes them from there.
"""

import sys

hidden = "typing_extensions" not in sys.modules
if hidden:
    sys.modules["typing_extensions"] = None  # type: ignore[assignment] # "absent", says the import system
try:
    import msgspec
finally:
    if hidden:
        del sys.modules["typing_extensions"]

__all__ = ["msgspec"]
