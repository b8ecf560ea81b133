"""What a field of a CRD says beyond JSON Schema, as `Annotated` metadata.

Each marker is a hook of pydantic's own generator of JSON Schema (`__get_pydantic_json_schema__`): it adds the extension
of apiextensions.k8s.io/v1 that it stands for to the schema of the type it annotates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

QUANTITY_PATTERN = (
    r"^(\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))(([KMGTPE]i)|[numkMGTPE]|([eE](\+|-)?(([0-9]+(\.[0-9]*)?)|(\.[0-9]+))))?$"
)
"""The grammar of k8s.io/apimachinery/pkg/api/resource, as controller-gen emits it."""

VALIDATIONS = "x-kubernetes-validations"
ALLOW_BOOLEAN = "x-lint-allow-boolean"
"""Read by the lint, never emitted."""


@dataclass(frozen=True)
class CelRule:
    """One entry of x-kubernetes-validations. `rule` is CEL over `self`, and `oldSelf` in a transition rule."""

    rule: str
    message: str
    message_expression: str | None = None
    field_path: str | None = None
    reason: str | None = None
    optional_old_self: bool = False

    def entry(self) -> dict[str, Any]:
        """The rule as apiextensions.k8s.io/v1 ValidationRule."""
        named = {
            "rule": self.rule,
            "message": self.message,
            "messageExpression": self.message_expression,
            "fieldPath": self.field_path,
            "reason": self.reason,
            "optionalOldSelf": self.optional_old_self or None,
        }
        return {name: value for name, value in named.items() if value is not None}


class _Extension:
    """A marker that adds keys to the schema of what it annotates."""

    keys: Callable[[], Mapping[str, Any]]

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(core_schema), **self.keys()}


class ListMap(_Extension):
    """A list whose items are told apart by these fields, so that writers own items and not the list."""

    def __init__(self, *names: str) -> None:
        self.names = names

    def keys(self) -> Mapping[str, Any]:
        """x-kubernetes-list-type: map."""
        return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(self.names)}


class ListSet(_Extension):
    """A list of scalars in which each stands once."""

    def keys(self) -> Mapping[str, Any]:
        """x-kubernetes-list-type: set."""
        return {"x-kubernetes-list-type": "set"}


class ListAtomic(_Extension):
    """A list that one writer owns as a whole."""

    def keys(self) -> Mapping[str, Any]:
        """x-kubernetes-list-type: atomic."""
        return {"x-kubernetes-list-type": "atomic"}


class MapAtomic(_Extension):
    """An object that one writer owns as a whole."""

    def keys(self) -> Mapping[str, Any]:
        """x-kubernetes-map-type: atomic."""
        return {"x-kubernetes-map-type": "atomic"}


class PreserveUnknown(_Extension):
    """An object whose unknown fields are kept."""

    def keys(self) -> Mapping[str, Any]:
        """x-kubernetes-preserve-unknown-fields."""
        return {"x-kubernetes-preserve-unknown-fields": True}


class AllowBoolean(_Extension):
    """A boolean that will never need a third value; the lint refuses the others."""

    def keys(self) -> Mapping[str, Any]:
        """A note for the lint."""
        return {ALLOW_BOOLEAN: True}


class SchemaDefault(_Extension):
    """A default that the API server persists. Defaults of the models never are."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def keys(self) -> Mapping[str, Any]:
        """The default, as JSON."""
        return {SCHEMA_DEFAULT: self.value}


SCHEMA_DEFAULT = "x-schema-default"
"""Becomes `default`, which pydantic fills with the defaults of Python."""


class Cel:
    """A rule over the annotated field itself; several add up."""

    def __init__(self, rule: str, message: str, **options: Any) -> None:
        self.rule = CelRule(rule, message, **options)

    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        schema = handler(core_schema)
        return schema | {VALIDATIONS: [*schema.get(VALIDATIONS, ()), self.rule.entry()]}


class _QuantitySchema:
    def __get_pydantic_json_schema__(self, core_schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        # The one form in which a structural schema may leave the type out.
        return {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "maxLength": 32,
            "pattern": QUANTITY_PATTERN,
            "x-kubernetes-int-or-string": True,
        }


Quantity = Annotated[str | int, _QuantitySchema()]
"""A Kubernetes quantity such as `2Gi`: a string, or an integer as YAML reads one without a suffix."""
