"""The structural schema of a model: pydantic's JSON Schema, with what Kubernetes does not take rewritten or refused.

References are inlined, `X | None` becomes an optional X, titles and Python's defaults go, examples move into the
description (all that `kubectl explain` shows) and into `example`. What a structural schema cannot say (a union of
types, a tuple, an object without known fields) is refused with the path of the field.
"""

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, GetJsonSchemaHandler
from pydantic.alias_generators import to_camel
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from virtplane_api.crdgen.markers import ALLOW_BOOLEAN, SCHEMA_DEFAULT, VALIDATIONS, CelRule

Schema = dict[str, Any]

_KEPT = (
    "format",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "exclusiveMinimum",
    "exclusiveMaximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minProperties",
    "maxProperties",
    "x-kubernetes-int-or-string",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "x-kubernetes-map-type",
    "x-kubernetes-preserve-unknown-fields",
    VALIDATIONS,
    ALLOW_BOOLEAN,
)
_DROPPED = {"title", "default", "$defs"}
_HANDLED = {"type", "description", "examples", "properties", "required", "additionalProperties", "items", "const"}
_INT32_MAX = (1 << 31) - 1


class UnstructuralError(TypeError):
    """A type that a structural schema cannot express; the message begins with the field's path."""


class StructuralModel(BaseModel):
    """An object of the API: camelCase in JSON, no unknown fields, immutable once made."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    cel_rules: ClassVar[tuple[CelRule, ...]] = ()
    """x-kubernetes-validations of the object."""

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        if cls.cel_rules:
            # A model's own schema is a definition that others refer to: the rules belong there.
            handler.resolve_ref_schema(schema)[VALIDATIONS] = [rule.entry() for rule in cls.cel_rules]
        return schema


def structural_schema(model: type[StructuralModel]) -> Schema:
    """The model as a structural schema, plain and in a fixed order.

    Raises:
        UnstructuralError: a field has a type that Kubernetes cannot express.
    """
    raw = model.model_json_schema(by_alias=True)
    return _structural(raw, raw.get("$defs", {}), model.__name__)


def _structural(raw: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    raw = _resolved(raw, definitions, path)
    unknown = set(raw) - set(_KEPT) - _DROPPED - _HANDLED - {SCHEMA_DEFAULT, "anyOf"}
    if unknown:
        raise UnstructuralError(f"{path}: a structural schema has no {', '.join(sorted(unknown))}")
    schema: Schema = {}
    if raw.get("x-kubernetes-int-or-string"):
        schema["anyOf"] = raw["anyOf"]
    elif "type" not in raw:
        raise UnstructuralError(f"{path}: has no type; name one that JSON knows")
    else:
        schema["type"] = raw["type"]
    if description := _description(raw):
        schema["description"] = description
    if raw.get("examples"):
        schema["example"] = raw["examples"][0]
    if SCHEMA_DEFAULT in raw:
        schema["default"] = raw[SCHEMA_DEFAULT]
    if "const" in raw:
        schema["enum"] = [raw["const"]]
    schema |= {key: raw[key] for key in _KEPT if key in raw}
    if raw.get("type") == "integer":
        large = max(abs(raw.get("minimum", 0)), abs(raw.get("maximum", _INT32_MAX + 1))) > _INT32_MAX
        schema.setdefault("format", "int64" if large else "int32")
    return schema | _children(raw, definitions, path)


def _children(raw: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Schema:
    if raw.get("type") == "array":
        if "items" not in raw:
            raise UnstructuralError(f"{path}: a list needs one type of items")
        return {"items": _structural(raw["items"], definitions, f"{path}[]")}
    if raw.get("type") != "object":
        return {}
    if raw.get("properties"):
        children: Schema = {
            "properties": {
                name: _structural(child, definitions, f"{path}.{name}") for name, child in raw["properties"].items()
            }
        }
        if raw.get("required"):
            children["required"] = raw["required"]
        return children
    values = raw.get("additionalProperties", False)  # False: a model without fields
    if isinstance(values, Mapping):
        return {"additionalProperties": _structural(values, definitions, f"{path}{{}}")}
    if values is True and not raw.get("x-kubernetes-preserve-unknown-fields"):
        raise UnstructuralError(f"{path}: an object needs known fields, one type of values, or PreserveUnknown()")
    return {}


def _resolved(raw: Mapping[str, Any], definitions: Mapping[str, Any], path: str) -> Mapping[str, Any]:
    """The schema with its reference and its `| None` taken out; keys beside them win."""
    while True:
        if "$ref" in raw:
            name = raw["$ref"].rsplit("/", 1)[-1]
            raw = definitions[name] | {key: value for key, value in raw.items() if key != "$ref"}
        elif "anyOf" in raw and not raw.get("x-kubernetes-int-or-string"):
            choices = [choice for choice in raw["anyOf"] if choice.get("type") != "null"]
            if len(choices) != 1:
                raise UnstructuralError(f"{path}: a union of types cannot be expressed; use one field for each")
            raw = choices[0] | {key: value for key, value in raw.items() if key != "anyOf"}
        else:
            return raw


def _description(raw: Mapping[str, Any]) -> str:
    text = " ".join(str(raw.get("description", "")).split())
    if not raw.get("examples") or raw["examples"][0] in ([], {}):
        return text
    example = raw["examples"][0]
    return f"{text} Example: {example if isinstance(example, str) else json.dumps(example)}".strip()
