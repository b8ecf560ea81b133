"""How a benchmark's figures are shown and kept."""

import json
import os
import platform
from collections.abc import Mapping
from pathlib import Path

BUILD = Path(__file__).parents[2] / "build"


def report(measured: Mapping[str, float], goals: Mapping[str, str], file_name: str) -> None:
    """Print a table, with each figure's goal, and write build/<file_name> (JSON, flat keys). It judges nothing."""
    figures = {name: round(value, 4) for name, value in sorted(measured.items())}
    load = f"load {os.getloadavg()[0]:.1f}"
    print(f"{os.cpu_count()} CPUs, {platform.platform()}, Python {platform.python_version()}, {load} at the end")
    for name, value in figures.items():
        print(f"{name:34} {value:10.4g}   {goals.get(name, '')}")
    BUILD.mkdir(exist_ok=True)
    result = BUILD / file_name
    result.write_text(json.dumps(figures, indent=1) + "\n")
    print(f"written to {result}")
