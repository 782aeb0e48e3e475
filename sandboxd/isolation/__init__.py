"""Decides which walls an env gets, in which order, and what its file system looks like: pure, the half that `launch` acts on."""
