"""An agent's metrics, as Prometheus would get them: by HTTP from the address that its log names."""

import re
import urllib.error
import urllib.request

from tests.cluster.system import System
from tests.cluster.waiting import eventually

_URL = re.compile(r"metrics at (http://\S+)/metrics")


def metrics_url(system: System, agent: str) -> str:
    """Of the agent that was started last under this name; waits until it listens."""
    eventually(lambda: _URL.search(system.log(agent)) is not None)
    return str(_URL.findall(system.log(agent))[-1])


def fetched(url: str) -> tuple[int, str]:
    """Status and text of a page."""
    try:
        with urllib.request.urlopen(url, timeout=10) as answer:  # noqa: S310  # our own
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scraped(system: System, agent: str, **labels: str) -> dict[str, float]:
    """Values by name of the series that have all of these labels, less the prefix."""
    status, text = fetched(f"{metrics_url(system, agent)}/metrics")
    assert status == 200, text
    lines = [line for line in text.splitlines() if line.startswith("virtplane_agent_")]
    found = [line for line in lines if all(f'{label}="{value}"' in line for label, value in labels.items())]
    return {re.split(r"[{ ]", line)[0].removeprefix("virtplane_agent_"): float(line.split()[-1]) for line in found}
