"""Ceilings without cgroups: sampling a process tree, and the verdict over a sample."""
