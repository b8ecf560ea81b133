"""What is known of a guest's addresses after something was heard, or was not: tables, in a time of their own."""

from ipaddress import ip_address

import pytest

from virtplane_drivers.network.linux.seen import MAX_SHOWN, SILENT_S, Span, in_order, remembered

A, B = ip_address("198.51.100.50"), ip_address("198.51.100.60")
NOW = 10_000.0
JUST_NOW, LONG_AGO = NOW - 5, NOW - SILENT_S


@pytest.mark.parametrize(
    ("known", "heard", "shown"),
    [
        ({}, {}, ()),
        ({}, {A: JUST_NOW}, (A,)),
        ({A: LONG_AGO}, {}, (A,)),
        ({A: LONG_AGO, B: LONG_AGO}, {}, (B, A)),
        ({A: LONG_AGO}, {B: JUST_NOW}, (B,)),
        ({A: LONG_AGO}, {A: JUST_NOW}, (A,)),
        ({A: LONG_AGO + 1}, {B: JUST_NOW}, (B, A)),
        ({A: JUST_NOW}, {A: JUST_NOW, B: JUST_NOW + 1}, (B, A)),
        ({B: LONG_AGO, A: LONG_AGO + 1}, {A: JUST_NOW}, (A,)),
    ],
    ids=[
        "nothing is known of a guest that says nothing",
        "what is heard is known",
        "a silent guest keeps its address",
        "and keeps both",
        "an address that was silent goes when another one is heard",
        "one that is heard again stays",
        "a new address is first, and the old one stays for a while",
        "a second address is first",
        "of two the one that is silent goes",
    ],
)
def test_what_is_known_after_something_was_heard(known: dict, heard: dict, shown: tuple) -> None:  # type: ignore[type-arg]
    spans = {address: Span(at - order, at) for order, (address, at) in enumerate(reversed(known.items()))}
    assert in_order(remembered(spans, heard, NOW)) == shown


def test_who_claims_many_addresses_shows_the_first_few_and_no_others_for_a_long_time() -> None:
    many = {ip_address(f"10.1.{n >> 8}.{n & 255}"): JUST_NOW + n / 1000 for n in range(1000)}
    spans = remembered({}, many, NOW)
    first = in_order(spans)
    assert set(first) == set(list(many)[:MAX_SHOWN])
    for later_s in range(0, int(SILENT_S) - 60, 60):
        claims = {ip_address(f"10.2.{later_s // 60}.{n}"): NOW + later_s for n in range(20)}
        spans = remembered(spans, claims, NOW + later_s)
        assert in_order(spans) == first


def test_the_order_stays_while_all_are_heard_again_and_again() -> None:
    spans = remembered({}, {A: JUST_NOW, B: JUST_NOW + 1}, NOW)
    for later_s in (600, 1200, 1800, 2400):
        spans = remembered(spans, {A: NOW + later_s, B: NOW + later_s - 7}, NOW + later_s)
        assert in_order(spans) == (B, A)
