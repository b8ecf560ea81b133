"""What the API server counted and whom it saw: the ground truth for tests of "how many writes"."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

_SAMPLE = re.compile(r"^apiserver_request_total\{(?P<labels>.*)\} (?P<value>\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


class RequestKind(NamedTuple):
    """One row of `apiserver_request_total`.

    `verb` is the API server's word: POST, PUT, PATCH, APPLY (a server-side apply), DELETE, DELETECOLLECTION, GET, LIST,
    WATCH. A watch counts when it ends.
    """

    verb: str
    group: str
    resource: str
    subresource: str
    code: int


def request_totals(metrics: str) -> Counter[RequestKind]:
    """Requests by kind since the API server started, from the text of its /metrics; dry runs left out."""
    totals: Counter[RequestKind] = Counter()
    for sample in _SAMPLE.finditer(metrics):
        labels = dict(_LABEL.findall(sample["labels"]))
        if not labels["dry_run"]:
            kind = RequestKind(
                labels["verb"], labels["group"], labels["resource"], labels["subresource"], int(labels["code"])
            )
            totals[kind] += int(float(sample["value"]))
    return totals


def audit_events(log: Path) -> list[dict[str, Any]]:
    """The audit log's complete lines, oldest first: `user.username`, `verb`, `objectRef`, `responseStatus` each."""
    if not log.exists():
        return []
    *lines, _unfinished = log.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]
