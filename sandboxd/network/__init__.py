"""Ports and addresses: what listens inside an env, and who has a port of the host."""
