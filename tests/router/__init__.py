"""The router as a real process, its envs stood in for by namespaces of the tests' own."""
