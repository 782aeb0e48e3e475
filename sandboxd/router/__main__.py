"""`python -m sandboxd.router`: takes over the descriptors its daemon bound, then serves with as many workers as it is
told until it is told to stop.

Started by `RouterHandle`, in a session of its own, or by the router before it in the same process (`handover`). Arguments: the
descriptors of the listening sockets, that of router.sock, and the bounds as JSON. Standard error is the log.
"""

import argparse
import gc
import logging
import sys

import msgspec

from sandboxd.kernel.titles import set_title
from sandboxd.router.handover import inherited, taken_up
from sandboxd.router.master import Master
from sandboxd.routing.framing import Bounds


def main(arguments: list[str]) -> int:
    """Serve; returns the exit code."""
    parser = argparse.ArgumentParser(prog="sandboxd-router")
    parser.add_argument("--listen", type=int, nargs="*", default=[], metavar="FD")
    parser.add_argument("--control", type=int, required=True, metavar="FD")
    parser.add_argument("--bounds", default="{}", metavar="JSON")
    parser.add_argument("--workers", type=int, default=1, metavar="N")
    parser.add_argument("--build", default="", metavar="TEXT")
    parser.add_argument("--estate", type=int, metavar="FD")
    options = parser.parse_args(arguments)
    set_title("sandboxd-router")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    bounds = msgspec.json.decode(options.bounds, type=Bounds)
    master = Master(bounds, [inherited(fd) for fd in options.listen], inherited(options.control), options.workers)
    master.build = options.build
    if options.estate is not None:
        master.inherit(taken_up(options.estate))
    logging.getLogger("sandboxd.router").info("serving on %s", ", ".join(master.hello().listen))
    gc.freeze()  # what was made so far lives for ever, and its pages stay shared with the workers
    master.run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
