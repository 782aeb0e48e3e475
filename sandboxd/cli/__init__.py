"""The command line: `sandbox`. Parses, asks the daemon through `sandboxd.client`, renders; decides nothing."""

import gc

# A verb is short, and what modules allocate while they load stays: looking through it for garbage is a tenth of `sandbox ps`
# (measured). This file is the first of ours that the command imports.
gc.set_threshold(100_000, 20, 100)
