"""`python -m tests.bench.monitor`: the monitor's figures alone."""

import asyncio

from tests.bench.monitor.figures import GOALS, figures
from tests.bench.report import report

if __name__ == "__main__":
    report(asyncio.run(figures()), GOALS, "bench-monitor.json")
