"""What one worker of what goes out leaves to the next: sandboxd.routing.outlets, as the wire carries it."""

from sandboxd.routing import orders
from sandboxd.routing.outlets import Left, Outlet, Passage, Question


def test_what_is_left_comes_over_the_wire_as_it_was() -> None:
    passage = Passage(number=1, name="a.example", address="", port=0, state="denied")
    asked = [Question(data=b"\0\xff", host="::1", port=53)]
    left = Left(env_id="e", bound=[("93.184.216.34", ["a.example"])], passages=[passage], denied=1, questions=asked, numbers=9)
    frame = orders.encode(orders.Bequest(left=left))[orders.LENGTH.size :]
    assert orders.decode(orders.egress_decoder, frame) == orders.Bequest(left=left)
    assert orders.decode(orders.report_decoder, frame) == orders.Bequest(left=left)


def test_what_an_older_version_does_not_say_has_a_value() -> None:
    frame = b'{"is":"outlets","outlets":[{"env_id":"e","dial":"/d","cookie":1,"owner":0,"rules":[]}]}'
    assert orders.decode(orders.egress_decoder, frame) == orders.SetOutlets(
        outlets=[Outlet(env_id="e", dial="/d", cookie=1, owner=0, rules=[], forward=[])]
    )
