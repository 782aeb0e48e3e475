"""The command line: `sandbox`. Parses, asks the daemon through `sandboxd.client`, renders; decides nothing."""
