"""sandboxd: isolated environments on Linux, without Docker, root or images."""

__version__ = "0.1.0"
