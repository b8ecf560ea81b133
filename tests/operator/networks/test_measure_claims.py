"""What is measured is right."""

from tests.operator.networks.measure_claims import measure


def test_thousands_of_claims_are_all_different() -> None:
    assert measure(1_000).held == 2_000


def test_a_network_is_filled_to_its_last_address() -> None:
    assert measure(62, "10.20.0.0/25").held == 124
