"""What the documents point at is there."""

import re
from pathlib import Path

import pytest

from virtplane_api.reasons import Reason
from virtplane_api.vocabulary import ExitReason

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []


def test_each_row_of_survival_names_a_test_that_exists() -> None:
    rows = re.findall(r"^\| (?!what happens|---).*\| `(.+?)::(\w+)` \|$", (ROOT / "docs/survival.md").read_text(), re.M)
    assert len(rows) > 20
    for path, name in rows:
        assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE), f"{path}::{name}"


def test_each_hazard_names_a_test_that_exists() -> None:
    page = (ROOT / "docs/hazards.md").read_text()
    rows = re.findall(r"^\| H(\d+) \|[^|]*\| (.+) \|$", page, re.M)
    assert [int(number) for number, _tests in rows] == [*range(1, 41)]
    for number, tests in rows:
        named = re.findall(r"`([^`]+?)::(\w+)`", tests)
        assert named, number
        for path, name in named:
            source = (ROOT / "tests/drivers/qemu" / path).read_text()
            assert re.search(rf"^(async )?def {name}\(", source, re.MULTILINE), f"{path}::{name}"


def test_decisions_that_the_code_refers_to_are_written_down() -> None:
    sources = [*ROOT.glob("*/virtplane_*/**/*.py"), *PAGES]
    numbers = {number for path in sources for number in re.findall(r"docs/decisions/(\d{4})", path.read_text())}
    written = {path.name[:4] for path in (ROOT / "docs/decisions").glob("*.md")}
    assert numbers <= written


INTERNAL = {Reason.REPLY_LOST, Reason.POOL_UNREACHABLE}
"""Of the fake drivers alone."""


def test_users_are_told_of_every_reason() -> None:
    pages = ("machines.md", "actions.md", "storage.md", "networks.md")
    text = " ".join((ROOT / "docs" / page).read_text() for page in pages)
    words = set(re.findall(r"\w+", text))
    assert (
        sorted(reason.value for reason in (set(Reason) | set(ExitReason)) - INTERNAL if reason.value not in words) == []
    )
