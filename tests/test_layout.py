"""What must hold of the tree itself."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("folder", ["operator", "crds", "agent", "drivers"])
def test_a_source_root_is_no_package_itself(folder: str) -> None:
    """operator/__init__.py would shadow Python's own `operator` for every `python -m` from here."""
    assert (ROOT / folder).is_dir()
    assert not (ROOT / folder / "__init__.py").exists()
