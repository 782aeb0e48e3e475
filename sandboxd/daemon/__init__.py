"""The daemon: the only process that decides. Wiring of all the other packages; nothing but `cli` imports it."""
