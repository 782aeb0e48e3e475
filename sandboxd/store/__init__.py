"""What outlives the daemon: its directories, its lock, its journal."""
