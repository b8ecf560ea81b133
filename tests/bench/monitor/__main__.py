"""`python -m tests.bench.monitor`: the monitor's figures alone."""

import asyncio

from tests.bench.monitor.figures import GOALS, figures

if __name__ == "__main__":
    for name, value in asyncio.run(figures()).items():
        print(f"{name:28} {value:10.4g}   {GOALS[name]}")
