"""docs/machine-steps.md draws the table of steps for people: the picture and the code are the same."""

import itertools
import re
from pathlib import Path

from virtplane_agent.machines.steps import NEXT, Goal, Seen, Step

PAGE = Path(__file__).parents[3] / "docs" / "machine-steps.md"
Table = dict[tuple[Seen, Goal], Step]


def drawn() -> Table:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in _first_table()]
    goals = [Goal(cell.removeprefix("wanted: ")) for cell in rows[0][1:]]
    return {(Seen(row[0]), goal): Step(cell) for row in rows[2:] for goal, cell in zip(goals, row[1:], strict=True)}


def _first_table() -> list[str]:
    match = re.search(r"(?:^\|.*\n)+", PAGE.read_text(), re.MULTILINE)
    assert match is not None
    return match[0].splitlines()


def test_every_pair_of_states_has_a_row() -> None:
    assert set(NEXT) == set(itertools.product(Seen, Goal))


def test_the_picture_shows_the_table() -> None:
    assert drawn() == dict(NEXT)


def test_every_step_is_explained() -> None:
    explained = re.findall(r"^\| (\w+) \| [A-Z]", PAGE.read_text(), re.MULTILINE)
    assert set(Step) <= set(explained)
