"""Bytes to messages, as a pure function of how they were cut and of what they say."""

import itertools
import tracemalloc

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.drivers.qemu.monitor.scripted_qmp import event
from virtplane_drivers.hypervisor.qemu.monitor import ProtocolViolation
from virtplane_drivers.hypervisor.qemu.monitor.wire import (
    MAX_EVENT_BYTES,
    MAX_MESSAGE_BYTES,
    LineReader,
    Message,
    encoded,
)

MESSAGES = [event("STOP"), {"return": {"a": "ü\n"}, "id": 1}, event("RESUME"), {"error": {"class": "X"}, "id": 2}]


def read(
    *pieces: bytes, max_message_bytes: int = MAX_MESSAGE_BYTES, into: list[Message] | None = None
) -> list[Message]:
    """Into a list of the caller's, where those before a violation are wanted."""
    reader = LineReader(max_message_bytes)
    messages = [] if into is None else into
    for piece in pieces:
        for message in reader.feed(piece):
            messages.append(message)
    return messages


@given(cuts=st.lists(st.integers(0, 400), max_size=30), end=st.sampled_from([b"\n", b"\r\n"]))
def test_h1_messages_come_out_whole_and_in_order_however_the_bytes_are_cut(cuts: list[int], end: bytes) -> None:
    wire = b"".join(orjson.dumps(message) + end for message in MESSAGES)
    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    assert read(*(wire[a:b] for a, b in itertools.pairwise(places))) == MESSAGES


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["LF", "CRLF"])
def test_h1_every_single_cut_between_an_event_and_a_reply(end: bytes) -> None:
    wire = b"".join(orjson.dumps(message) + end for message in MESSAGES[:2])
    for cut in range(len(wire) + 1):
        assert read(wire[:cut], wire[cut:]) == MESSAGES[:2], cut


def test_h1_one_byte_at_a_time() -> None:
    wire = b"".join(orjson.dumps(message) + b"\r\n" for message in MESSAGES)
    assert read(*(bytes([byte]) for byte in wire)) == MESSAGES


def test_empty_lines_are_no_messages() -> None:
    assert read(b"\r\n", b"\n\n", b'{"a": 1}\n\r\n', b"  \n") == [{"a": 1}]


def test_h23_a_message_without_its_end_is_held_and_not_delivered() -> None:
    reader = LineReader()
    assert list(reader.feed(b'{"return": {}, "id": 1}')) == []
    assert reader.held_bytes == 23
    assert list(reader.feed(b"\n")) == [{"return": {}, "id": 1}]
    assert reader.held_bytes == 0


@pytest.mark.parametrize("pieces", [[b"x" * 900, b"x" * 200], [b"x" * 900, b"x" * 200 + b"\n"], [b"x" * 1001 + b"\n"]])
def test_h24_what_is_longer_than_the_cap_is_refused_finished_or_not(pieces: list[bytes]) -> None:
    with pytest.raises(ProtocolViolation, match="longer than 1000 bytes"):
        read(*pieces, max_message_bytes=1000)


NO_MESSAGES: dict[str, bytes] = {
    "no JSON": b"hello\n",
    "a list": b"[1]\n",
    "a number": b"1\n",
    "invalid UTF-8": b'{"event": "\xff"}\n',
    "NUL": b'{"event": "\x00"}\n',
    "a lone surrogate": b'{"event": "\\ud800"}\n',
    "not a number": b'{"return": NaN, "id": 1}\n',
    "10,000 deep": b"[" * 10_000 + b"]" * 10_000 + b"\n",
    "half an object": b'{"return": {}, "id": \n',
    "two in one line": b'{"return": {}} {"return": {}}\n',
}


@pytest.mark.parametrize("line", NO_MESSAGES.values(), ids=NO_MESSAGES.keys())
def test_h25_what_is_no_message_is_refused_after_the_delivery_of_those_before_it(line: bytes) -> None:
    delivered: list[Message] = []
    with pytest.raises(ProtocolViolation):
        read(b'{"a": 1}\n' + line + b'{"b": 2}\n', into=delivered)
    assert delivered == [{"a": 1}]


SANE: dict[str, tuple[bytes, object]] = {
    "the last of two equal keys counts": (b'{"id": 1, "id": 2}\n', {"id": 2}),
    "the largest integer of QEMU": (b'{"return": 18446744073709551615}\n', {"return": 2**64 - 1}),
    "an integer of more than 64 bits": (b'{"return": 36893488147419103232}\n', {"return": 2.0**65}),
    "200 deep": (b'{"return":' + b"[" * 200 + b"]" * 200 + b"}\n", None),
}


@pytest.mark.parametrize(("line", "message"), SANE.values(), ids=SANE.keys())
def test_h25_what_is_odd_but_json_is_read(line: bytes, message: object) -> None:
    [got] = read(line)
    assert message is None or got == message


@pytest.mark.parametrize("value", [2**64, "\ud800", object(), {1, 2}], ids=["65 bits", "surrogate", "object", "set"])
def test_what_json_cannot_hold_is_refused_before_it_is_sent(value: object) -> None:
    with pytest.raises(TypeError):
        encoded({"arguments": {"value": value}})


def test_a_command_longer_than_the_cap_is_refused_before_it_is_sent() -> None:
    with pytest.raises(ValueError, match="a command of"):
        encoded({"arguments": "x" * MAX_MESSAGE_BYTES})


@pytest.mark.parametrize("item", [b"[]", b"{}", b"1.5", '"é"'.encode()])
def test_h24_the_worst_message_takes_less_than_a_hundred_mib_of_memory(item: bytes) -> None:
    line = b'{"return":[' + b",".join([item] * ((MAX_MESSAGE_BYTES - 100) // (len(item) + 1))) + b'],"id":1}\n'
    tracemalloc.start()
    try:
        [message] = LineReader().feed(line)
        _now, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(message["return"]) > MAX_MESSAGE_BYTES // 6
    assert most_bytes < 100 << 20


def test_h30_an_event_of_megabytes_is_refused_and_a_reply_of_megabytes_is_not() -> None:
    long = "x" * MAX_EVENT_BYTES
    reply = orjson.dumps({"return": long, "id": 1}) + b"\n"
    [message] = LineReader().feed(reply)
    assert message["return"] == long
    with pytest.raises(ProtocolViolation, match="an event longer than"):
        list(LineReader().feed(orjson.dumps({"event": "X", "data": {"text": long}}) + b"\n"))
