"""What a good API says of each field, checked on the generated schema.

Bounds are no pedantry: the API server estimates the cost of CEL rules from them, and refuses a rule over what has none.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from virtplane_api.crdgen.markers import ALLOW_BOOLEAN
from virtplane_api.crdgen.resource import CustomResource
from virtplane_api.crdgen.schema import structural_schema


def lint(resource: CustomResource) -> list[str]:
    """One line for each shortcoming, beginning with the field's path; empty when there is none."""
    found: list[str] = []
    for name, model in (("spec", resource.spec), ("status", resource.status)):
        if model is not None:
            found += _lint(structural_schema(model), f"{resource.kind}.{name}", in_list=False, described=True)
    return found


def _lint(schema: Mapping[str, Any], path: str, *, in_list: bool, described: bool) -> Iterator[str]:
    if not described:
        if "description" not in schema:
            yield f"{path}: has no description"
        if "example" not in schema:
            yield f"{path}: has no example"
    if in_list and "default" in schema:
        yield f"{path}: a default inside a list item is persisted; say in the description what holds without a value"
    yield from _lint_bounds(schema, path)
    for name, child in schema.get("properties", {}).items():
        yield from _lint(child, f"{path}.{name}", in_list=in_list, described=False)
    if "items" in schema:
        yield from _lint(schema["items"], f"{path}[]", in_list=True, described=True)
    if "additionalProperties" in schema:
        yield from _lint(schema["additionalProperties"], f"{path}{{}}", in_list=in_list, described=True)


def _lint_bounds(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    match schema.get("type"):
        case "string":
            if not {"maxLength", "enum"} & set(schema) and schema.get("format") != "date-time":
                yield f"{path}: a string needs a maximum length"
        case "integer":
            if not {"minimum", "maximum"} <= set(schema):
                yield f"{path}: an integer needs a minimum and a maximum"
        case "boolean":
            if not schema.get(ALLOW_BOOLEAN):
                yield f"{path}: a boolean cannot grow a third value; use an enum, or AllowBoolean()"
        case "array":
            yield from _lint_list(schema, path)
        case "object":
            if "additionalProperties" in schema and "maxProperties" not in schema:
                yield f"{path}: a map needs a maximum of entries"
        case "number":
            yield f"{path}: a floating-point number does not survive a round trip; use a quantity or an integer"
        case _:
            return


def _lint_list(schema: Mapping[str, Any], path: str) -> Iterator[str]:
    if "maxItems" not in schema:
        yield f"{path}: a list needs a maximum of items"
    if schema["items"].get("type") == "object" and "x-kubernetes-list-type" not in schema:
        yield f"{path}: a list of objects needs a list type (ListMap, ListAtomic)"
