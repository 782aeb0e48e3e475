"""The daemon as of a later version, by its number alone: `python -m tests.daemon.crash.newer`, the number in NEWER."""

import os

import sandboxd

if __name__ == "__main__":
    sandboxd.__version__ = os.environ["NEWER"]  # before anything has taken a copy
    from sandboxd.daemon.main import main

    main()
