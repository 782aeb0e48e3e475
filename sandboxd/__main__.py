"""`python -m sandboxd`: the daemon."""

from sandboxd.daemon.main import main

main()
