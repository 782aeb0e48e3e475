"""Varlink implementations that are not ours, to test against."""

import warnings

with warnings.catch_warnings():
    # varlink 31 spells `\*` in a docstring, which compiles with a warning where no cached bytecode is.
    warnings.simplefilter("ignore")
    import varlink  # type: ignore[import-untyped]
    import varlink.scanner  # type: ignore[import-untyped]

import asyncvarlink

__all__ = ["asyncvarlink", "varlink"]
