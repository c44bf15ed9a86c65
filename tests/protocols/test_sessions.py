"""A session knows when it was last heard of."""

import pytest

from protocols.addr import Ip4
from protocols.sessions import Role, Session, State, Traffic


@pytest.mark.parametrize(
    ("control", "outbound", "inbound"),
    [
        pytest.param(9.0, 2.0, 3.0, id="control"),
        pytest.param(1.0, 9.0, 3.0, id="outbound"),
        pytest.param(1.0, 2.0, 9.0, id="inbound"),
    ],
)
def test_idle_since_is_the_last_of_all_channels(control: float, outbound: float, inbound: float) -> None:
    session = Session(
        "p1", "pptp", Role.MASQUERADE, "staff", State.CONTROL, Ip4(1), Ip4(2), Ip4(3), 0.5, control,
        outbound=Traffic(1, 1, outbound), inbound=Traffic(1, 1, inbound),
    )  # fmt: skip
    assert session.idle_since() == 9.0
