"""Rules as values, the text that nft(8) takes of them, and what is to change from one set of rules to another.

Text, not JSON: nft 1.0.6 takes `typeof iifname . @th,64,128` for a set's type in text only, and nothing else compares
the target of a neighbour's advertisement with the interface that it came from.

All changes of one call are one transaction of the kernel: a packet meets the old rules or the new ones.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_DROP_TABLE = "table {0}\ndelete table {0}\n"
"""The first line makes it if it is not there, so that the second never fails."""


@dataclass(frozen=True, slots=True)
class NamedSet:
    """A set, or a map, that rules look up."""

    name: str
    type: str
    """`typeof iifname . ether saddr`, `type ipv4_addr; flags interval` and the like."""
    elements: frozenset[str] = frozenset()
    kind: str = "set"
    in_place: bool = True
    """Whether elements are added and deleted one by one. Not of intervals, which the kernel may have merged."""


@dataclass(frozen=True, slots=True)
class Chain:
    """A chain. One without a hook is jumped to."""

    name: str
    rules: tuple[str, ...]
    hook: str = ""
    """`type filter hook forward priority filter; policy drop;`"""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of ours. Chains are in an order in which none is jumped to before it is there."""

    family: str
    name: str
    sets: tuple[NamedSet, ...]
    chains: tuple[Chain, ...]
    flags: str = ""

    @property
    def address(self) -> str:
        """By which nft finds it."""
        return f"{self.family} {self.name}"


Ruleset = tuple[Table, ...]


def whole(ruleset: Ruleset) -> str:
    """The script that replaces whatever the tables hold."""
    return "".join(removal(table.family, table.name) + made(table) for table in ruleset)


def made(table: Table) -> str:
    """The script that makes a table that is not there."""
    return "".join(_table(table))


def changes(old: Ruleset, new: Ruleset) -> str:
    """The script that makes `new` of `old`: elements only, where no more has changed. Empty: nothing has.

    A machine more or less is the change of every day, and 1,000 ports load ten times as long as one.
    """
    if old == new:
        return ""
    if _skeletons(old) != _skeletons(new):
        return whole(new)
    script: list[str] = []
    for old_table, new_table in zip(old, new, strict=True):
        for old_set, new_set in zip(old_table.sets, new_table.sets, strict=True):
            if old_set.elements == new_set.elements:
                continue
            if not new_set.in_place:
                return whole(new)
            for verb, elements in (
                ("delete", old_set.elements - new_set.elements),
                ("add", new_set.elements - old_set.elements),
            ):
                if elements:
                    script.append(f"{verb} element {new_table.address} {new_set.name} {braced(elements)}\n")
    return "".join(script)


def removal(family: str, name: str) -> str:
    """The script that leaves nothing of a table, whether it is there or not."""
    return _DROP_TABLE.format(f"{family} {name}")


def _table(table: Table) -> Iterator[str]:
    yield f"table {table.address} {{\n"
    if table.flags:
        yield f" flags {table.flags};\n"
    for one in table.sets:
        filled = f"elements = {braced(one.elements)};" if one.elements else ""
        yield f" {one.kind} {one.name} {{ {one.type}; {filled} }}\n"
    for chain in table.chains:
        yield f" chain {chain.name} {{\n"
        for line in (chain.hook, *chain.rules):
            yield f"  {line}\n"
        yield " }\n"
    yield "}\n"


def braced(elements: Iterable[str]) -> str:
    """As nft writes what is in a set."""
    return f"{{ {', '.join(sorted(elements))} }}"


def _skeletons(ruleset: Ruleset) -> list[object]:
    return [(table.address, table.chains, [(one.kind, one.name, one.type) for one in table.sets]) for table in ruleset]
