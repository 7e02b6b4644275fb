"""The count of trailer fields follows chunks as h11 does, whatever a server sends."""

import threading

import h11
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.intake.trailers import Trailers

HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
PIECES = st.sampled_from(
    [
        b"0",
        b"1",
        b"6",
        b"-6",
        b"+5",
        b"0x5",
        b"1_0",
        b"fff",
        b"x",
        b";",
        b";a=b",
        b" ",
        b"\t",
        b"\r\n",
        b"\n",
        b"\r",
        b"a: b\r\n",
    ]
)


def fields_of_h11(body: bytes) -> int:
    """Return the number of trailer fields that h11 accepts; 0 for a body that it refuses or that has no end."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("host", "a")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(HEAD + body)
    try:
        while not isinstance(event := connection.next_event(), h11.EndOfMessage):
            if event in (h11.NEED_DATA, h11.PAUSED):
                return 0
    except h11.RemoteProtocolError:
        return 0
    return len(event.headers)


def counted(pieces: list[bytes]) -> int:
    trailers = Trailers()
    for piece in pieces:
        trailers.feed(piece)
    return trailers.fields


@pytest.mark.parametrize("size", [b"-6", b"-fff", b"- 6", b"+5", b"0x5", b"1_0", b""])
def test_a_size_that_is_no_hexadecimal_number_ends_the_count(size: bytes) -> None:
    """A size with a sign, which leads backwards in the body, does not occupy the event loop."""
    done = threading.Thread(target=counted, args=([size + b"\r\nx"],), daemon=True)
    done.start()
    done.join(5)
    assert not done.is_alive()


@settings(max_examples=500, deadline=None)
@given(st.lists(PIECES, max_size=30))
def test_no_field_that_h11_accepts_is_left_out(pieces: list[bytes]) -> None:
    """However a body is split, at least the fields that h11 accepts are counted."""
    whole = b"".join(pieces)
    least = fields_of_h11(whole)
    assert counted([whole]) >= least
    assert counted(pieces) >= least
    assert counted([whole[at : at + 1] for at in range(len(whole))]) >= least
