"""`python -m tests.bench.network`: the networks' figures alone, as root."""

import asyncio
import sys

from tests.bench.network.figures import GOALS, figures
from tests.bench.report import report


def main() -> int:
    """Measure and print; the exit status does not judge."""
    report(asyncio.run(figures()), GOALS, "bench-network.json")
    return 0


if __name__ == "__main__":
    sys.exit(main())
