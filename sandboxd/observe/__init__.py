"""What envs say: reading and following the logs that their inits write."""
