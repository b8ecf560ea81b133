"""What docs/metrics.md says of each metric, beside what an agent says."""

import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

PAGE = Path(__file__).parents[3] / "docs/metrics.md"
Metrics = dict[str, tuple[str, tuple[str, ...]]]
"""Type and labels, in order, by name."""


def documented() -> Metrics:
    """All that the page's tables have."""
    rows = re.findall(r"^\| `(\w+)` \| (\w+)[^|]* \|([^|]*)\|", PAGE.read_text(), re.M)
    return {name: (kind, tuple(sorted(re.findall(r"`(\w+)`", labels)))) for name, kind, labels in rows}


def exported(text: str) -> Metrics:
    """All that have a value in what was scraped."""
    return {
        sample.name: (family.type, tuple(sorted(sample.labels)))
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def undocumented(text: str) -> Metrics:
    """What was scraped and is not in the page, or not so."""
    page = documented()
    return {name: told for name, told in exported(text).items() if page.get(name) != told}
