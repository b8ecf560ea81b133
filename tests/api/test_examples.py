"""docs/examples is a manual: each field of each spec is shown in it. That they work is tried in tests/e2e."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from virtplane_api.crdgen import CustomResource, structural_schema
from virtplane_api.models import RESOURCES

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


def shown() -> Iterator[dict[str, Any]]:
    for path in sorted(EXAMPLES.glob("*.yaml")):
        yield from yaml.safe_load_all(path.read_text())


def fields_of_value(value: Any, path: str = "spec") -> Iterator[str]:
    """Paths of all fields that an example sets, list items under `[]`."""
    if isinstance(value, dict):
        for name, inner in value.items():
            yield f"{path}.{name}"
            yield from fields_of_value(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for inner in value:
            yield from fields_of_value(inner, f"{path}[]")


def fields_of_schema(schema: dict[str, Any], path: str = "spec") -> Iterator[str]:
    """Paths of all fields that the schema names."""
    for name, inner in schema.get("properties", {}).items():
        yield f"{path}.{name}"
        yield from fields_of_schema(inner, f"{path}.{name}")
    if "items" in schema:
        yield from fields_of_schema(schema["items"], f"{path}[]")


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_every_field_of_the_spec_is_in_an_example(resource: CustomResource) -> None:
    examples = [example["spec"] for example in shown() if example["kind"] == resource.kind]
    seen = {field for spec in examples for field in fields_of_value(spec)}
    assert sorted(set(fields_of_schema(structural_schema(resource.spec))) - seen) == []
