"""MAC addresses: the same for the same names, and no two alike in a network."""

import re

from virtplane_operator.networks.macs import mac_address


def free(_mac: str) -> bool:
    return False


def test_the_same_names_get_the_same_address() -> None:
    chosen = mac_address("cluster", "shop", "web", "lan", free)
    assert chosen == mac_address("cluster", "shop", "web", "lan", free)
    assert re.fullmatch(r"52:54:00(:[0-9a-f]{2}){3}", chosen)


def test_every_name_counts_and_so_does_the_cluster() -> None:
    names = [("c", "shop", "web", "lan"), ("d", "shop", "web", "lan"), ("c", "lab", "web", "lan"),
             ("c", "shop", "db", "lan"), ("c", "shop", "web", "wan")]  # fmt: skip
    assert len({mac_address(*name, free) for name in names}) == len(names)


def test_the_next_one_is_taken_when_one_is_held_and_it_too_is_always_the_same() -> None:
    held: set[str] = set()
    chosen = []
    for _ in range(3):
        chosen.append(mac_address("c", "shop", "web", "lan", held.__contains__))
        held.add(chosen[-1])
    assert len(set(chosen)) == 3
    assert mac_address("c", "shop", "web", "lan", set(chosen[:2]).__contains__) == chosen[2]
