"""Where in what was read a body begins, how much of it is there, and how much is to come: for requests and for answers.

Reads the shared buffer, does no I/O. Imports routing.
"""

from sandboxd.router.relay import ENDLESS, shared
from sandboxd.routing.chunked import Chunked
from sandboxd.routing.framing import CHUNKED, UNTIL_CLOSE, FramingError
from sandboxd.routing.requests import Request
from sandboxd.routing.responses import Response


def first_part(carry: bytes, length: int) -> tuple[bytes, bytes, int, Chunked | None]:
    """Of what came with a request's head: body, what is behind it, how much is left, the judge of a chunked body.

    Raises FramingError.
    """
    if length != CHUNKED:
        body, rest = carry[:length], carry[length:]
        return body, rest, length - len(body), None
    chunked = Chunked(400)
    good = chunked.scan(carry, 0, len(carry))
    return carry[:good], carry[good:], 0 if chunked.done else ENDLESS, chunked


def measure(request: Request, response: Response, end: int) -> tuple[int, int, Chunked | None]:
    """Up to where shared[:end] belongs to the answer, how much of its body is left, the judge of a chunked body.

    Raises FramingError(502).
    """
    length, begin = response.length, response.end
    if length >= 0:
        taken = min(length, end - begin)
        return begin + taken, length - taken, None
    if length == UNTIL_CLOSE:
        return end, ENDLESS, None
    if request.minor == b"0":
        raise FramingError(502, "it answered an HTTP/1.0 request in chunks")
    chunked = Chunked(502)
    stop = chunked.scan(shared, begin, end)
    return stop, 0 if chunked.done else ENDLESS, chunked
