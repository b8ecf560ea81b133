"""The reader of a guest's bytes, against random ones."""

import base64
import itertools
import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtplane_drivers.hypervisor.qemu.guest_agent import AgentGarbage
from virtplane_drivers.hypervisor.qemu.guest_agent.replies import (
    MAX_CUT_REPLY_BYTES,
    ReplyReader,
    SyncFinder,
    TextCutter,
)

NOISE = st.one_of(
    st.binary(max_size=200),
    st.sampled_from([b"\xff", b'\xff{"return": ', b'\xff{"return": 41}\n', b'{"return": {}}\n', b"42}\n", b"\xff\xff"]),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(noise=st.lists(NOISE, max_size=8).map(b"".join), cuts=st.lists(st.integers(0, 1000), max_size=20))
def test_h39_a_sync_s_answer_is_found_behind_any_noise_however_it_is_cut(noise: bytes, cuts: list[int]) -> None:
    finder = SyncFinder(42)
    data = noise + b'\xff{"return": 42}\n'
    found = [finder.feed(piece) for piece in pieces(data, cuts)]
    assert found[-1] or any(found)  # any: the noise itself may hold one


@given(noise=st.lists(NOISE, max_size=8).map(b"".join), cuts=st.lists(st.integers(0, 1000), max_size=20))
def test_h39_noise_is_no_answer(noise: bytes, cuts: list[int]) -> None:
    finder = SyncFinder(4_242_424_242)
    assert not any(finder.feed(piece) for piece in pieces(noise, cuts))


@pytest.mark.parametrize(
    "almost",
    [
        b'{"return": 42}\n',
        b'\xff{"return": 421}\n',
        b'\xff{"return": 142}\n',
        b'\xff{"return": 42.0}\n',
        b'\xff{"return": "42"}\n',
        b'\xff{"error": 42}\n',
        b'\xff{"return": 42}',
        b'\xff{"return": 4\xff2}\n',
    ],
)
def test_h39_what_is_almost_the_answer_is_not_the_answer(almost: bytes) -> None:
    assert not SyncFinder(42).feed(almost)


def test_h39_after_so_many_bytes_no_more_is_looked_at() -> None:
    finder = SyncFinder(42, max_skipped_bytes=1000)
    for _ in range(10):
        assert not finder.feed(b"x" * 100)
    with pytest.raises(AgentGarbage, match="1001 bytes"):
        finder.feed(b"x")


FLOODS = [b"\xff" * 16384, b'\xff{"return"' * 1600, (b"\xff" + b" " * 9) * 1600, b'\xff{"return": 42' * 1200]


def cost_s(flood: bytes, pieces: int) -> float:
    finder = SyncFinder(42)
    began = time.process_time()
    for _ in range(pieces):
        assert not finder.feed(flood)
    return time.process_time() - began


@pytest.mark.parametrize("flood", FLOODS)
def test_h39_a_flood_costs_as_much_as_it_is_long_and_not_as_its_square(flood: bytes) -> None:
    few, many = (min(cost_s(flood, pieces) for _ in range(3)) for pieces in (50, 400))
    assert many < 3 * 8 * few


REPLIES = st.one_of(
    st.fixed_dictionaries({"return": st.recursive(st.none() | st.text() | st.integers(0, 99), st.lists)}),
    st.fixed_dictionaries({"error": st.text()}),
)


@given(reply=REPLIES, behind=st.binary(max_size=50), cuts=st.lists(st.integers(0, 300), max_size=20))
def test_a_reply_comes_out_however_it_is_cut_and_what_is_behind_it_does_not(
    reply: dict[str, object], behind: bytes, cuts: list[int]
) -> None:
    reader = ReplyReader()
    results = []
    for piece in pieces(orjson.dumps(reply) + b"\n" + behind, cuts):
        results.append(reader.feed(piece))
        if results[-1] is not None:
            break
    assert results[-1] == reply
    assert results[:-1] == [None] * (len(results) - 1)


@given(data=st.binary(max_size=300), cuts=st.lists(st.integers(0, 300), max_size=20))
def test_h39_any_bytes_give_a_reply_or_garbage_and_no_other_error(data: bytes, cuts: list[int]) -> None:
    reader = ReplyReader()
    try:
        for piece in pieces(data + b"\n", cuts):
            if (reply := reader.feed(piece)) is not None:
                assert "return" in reply or "error" in reply
                break
    except AgentGarbage:
        pass


def test_h39_a_reply_longer_than_the_cap_is_refused_before_it_is_whole() -> None:
    reader = ReplyReader(max_reply_bytes=1000)
    assert reader.feed(b"x" * 1000) is None
    with pytest.raises(AgentGarbage, match="longer than 1000 bytes"):
        reader.feed(b"x")


# --- long texts -------------------------------------------------------------------------------------------------------

JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(0, 99) | st.text(st.sampled_from('a\\"\u00e9/'), max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
)


@given(value=JSON, cuts=st.lists(st.integers(0, 300), max_size=20))
def test_texts_that_are_short_enough_stay_as_they_are_whatever_is_in_them(value: object, cuts: list[int]) -> None:
    cutter, document = TextCutter(1000), orjson.dumps(value)
    assert b"".join(cutter.feed(piece) for piece in pieces(document, cuts)) == document


@given(
    outputs=st.lists(st.binary(max_size=60), max_size=4),
    max_text_bytes=st.integers(0, 90),
    cuts=st.lists(st.integers(0, 300), max_size=20),
)
def test_a_longer_text_is_cut_at_its_end_and_nothing_else_is(
    outputs: list[bytes], max_text_bytes: int, cuts: list[int]
) -> None:
    texts = [base64.b64encode(output).decode() for output in outputs]
    cutter, document = TextCutter(max_text_bytes), orjson.dumps([*texts, 7])
    left = b"".join(cutter.feed(piece) for piece in pieces(document, cuts))
    assert orjson.loads(left) == [*(text[:max_text_bytes] for text in texts), 7]


def test_of_a_long_reply_no_more_is_held_than_is_left_of_it() -> None:
    reader = ReplyReader(max_reply_bytes=1000, max_text_bytes=100)
    assert reader.feed(b'{"return": "') is None
    for _ in range(100):
        assert reader.feed(b"x" * 16384) is None
    assert reader.feed(b'"}\n') == {"return": "x" * 100}


def fed_until_refused(reader: ReplyReader, piece: bytes, pieces: int) -> None:
    for _ in range(pieces):
        assert reader.feed(piece) is None


@pytest.mark.parametrize("piece", [b'"' * 16384, b'\\"' * 8192, b"1" * 16384])
def test_h39_what_cannot_be_cut_meets_the_cap(piece: bytes) -> None:
    reader = ReplyReader(max_reply_bytes=100_000, max_text_bytes=10)
    with pytest.raises(AgentGarbage, match="longer than 100000 bytes"):
        fed_until_refused(reader, piece, 100)


@pytest.mark.parametrize("piece", [b"x" * (1 << 20), b"\\" * (1 << 20)])
def test_h39_a_text_without_end_has_one_all_the_same(piece: bytes) -> None:
    reader = ReplyReader(max_text_bytes=10)
    assert reader.feed(b'{"return": "') is None
    with pytest.raises(AgentGarbage, match=f"longer than {MAX_CUT_REPLY_BYTES} bytes"):
        fed_until_refused(reader, piece, MAX_CUT_REPLY_BYTES // len(piece))
