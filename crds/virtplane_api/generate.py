"""Writes the CRDs' YAML from the models: `python -m virtplane_api.generate`, or with --check says what has drifted.

Each CRD is written twice: plain into `crds/`, and into the chart as a template that Helm keeps on uninstall (a chart
that deletes its CRDs deletes every machine with them).
"""

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path

from virtplane_api.crdgen import crd, to_yaml
from virtplane_api.models import RESOURCES

ROOT = Path(__file__).parents[2]
HEADER = "Generated from crds/virtplane_api/models by `python -m virtplane_api.generate`. Do not edit."
CHART_LABELS = {
    "app.kubernetes.io/name": "virtplane",
    "app.kubernetes.io/part-of": "virtplane",
}


def documents() -> Mapping[Path, str]:
    """Every generated file, by its path below the repository's root."""
    files: dict[Path, str] = {}
    for resource in RESOURCES:
        files[Path("crds", f"{resource.group}_{resource.plural}.yaml")] = to_yaml(crd(resource), HEADER)
        kept = crd(resource, annotations={"helm.sh/resource-policy": "keep"})
        kept["metadata"]["labels"] = CHART_LABELS
        # Helm's template language would read braces of a description or a rule as its own.
        text = to_yaml(kept, HEADER).replace("{{", "{{ `{{` }}")
        files[Path("helm", "virtplane", "templates", "crds", f"{resource.plural}.yaml")] = text
    return files


def main() -> int:
    """Write or compare. Exit status 1 when something has drifted."""
    parser = argparse.ArgumentParser(prog="python -m virtplane_api.generate", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing, exit 1 when a file differs")
    check = parser.parse_args().check
    drifted = [path for path, text in documents().items() if not _is(ROOT / path, text)]
    if check:
        for path in drifted:
            print(f"{path} differs from the models: run python -m virtplane_api.generate", file=sys.stderr)
        return 1 if drifted else 0
    for path in drifted:
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(documents()[path])
        print(f"wrote {path}")
    return 0


def _is(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
