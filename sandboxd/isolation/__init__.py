"""Decides which walls an env gets, in which order, and what its file system looks like: the pure half of `launch`."""
