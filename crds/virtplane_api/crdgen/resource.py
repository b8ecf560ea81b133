"""A kind, and its CustomResourceDefinition."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml

from virtplane_api.crdgen.markers import ALLOW_BOOLEAN, VALIDATIONS, CelRule
from virtplane_api.crdgen.schema import Schema, StructuralModel, structural_schema


@dataclass(frozen=True)
class PrinterColumn:
    """A column of `kubectl get`; with priority 1 only of `-o wide`."""

    name: str
    type: Literal["string", "integer", "number", "boolean", "date"]
    json_path: str
    description: str
    priority: int = 0


@dataclass(frozen=True)
class CustomResource:
    """One kind with its single version."""

    group: str
    version: str
    kind: str
    plural: str
    singular: str
    short_names: tuple[str, ...]
    categories: tuple[str, ...]
    scope: Literal["Namespaced", "Cluster"]
    description: str
    spec: type[StructuralModel]
    status: type[StructuralModel] | None = None
    status_default: Mapping[str, Any] | None = None
    """What `.status` is before anyone writes it."""
    printer_columns: tuple[PrinterColumn, ...] = ()
    selectable_fields: tuple[str, ...] = ()
    """JSON paths that field selectors may name."""
    cel_rules: tuple[CelRule, ...] = ()
    """Rules over the whole object (metadata.name is visible to them)."""
    labels: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """metadata.name of the CRD."""
        return f"{self.plural}.{self.group}"


def crd(resource: CustomResource, *, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The CustomResourceDefinition (apiextensions.k8s.io/v1) of a kind.

    Raises:
        UnstructuralError: a model has a field that Kubernetes cannot express.
    """
    metadata: dict[str, Any] = {"name": resource.name}
    if resource.labels:
        metadata["labels"] = dict(resource.labels)
    if annotations:
        metadata["annotations"] = dict(annotations)
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": metadata,
        "spec": {
            "group": resource.group,
            "scope": resource.scope,
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.singular,
                "shortNames": list(resource.short_names),
                "categories": list(resource.categories),
            },
            "versions": [_version(resource)],
        },
    }


def to_yaml(document: Mapping[str, Any], header: str = "") -> str:
    """Stable YAML in the order of the document; `header` becomes comment lines."""
    comment = "".join(f"# {line}\n" for line in header.splitlines())
    return comment + yaml.dump(document, sort_keys=False, width=120, allow_unicode=True, Dumper=_NoAliases)


class _NoAliases(yaml.SafeDumper):
    """Kubernetes' tools read YAML anchors, people and diffs do not."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _version(resource: CustomResource) -> dict[str, Any]:
    version: dict[str, Any] = {"name": resource.version, "served": True, "storage": True}
    if resource.status is not None:
        version["subresources"] = {"status": {}}
    if resource.selectable_fields:
        version["selectableFields"] = [{"jsonPath": path} for path in resource.selectable_fields]
    if resource.printer_columns:
        version["additionalPrinterColumns"] = [_column(column) for column in resource.printer_columns]
    version["schema"] = {"openAPIV3Schema": _root(resource)}
    return version


def _column(column: PrinterColumn) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.json_path,
        "description": column.description,
    }
    if column.priority:
        entry["priority"] = column.priority
    return entry


def _root(resource: CustomResource) -> Schema:
    properties: Schema = {
        "apiVersion": {"type": "string", "description": "Group and version of this object's schema."},
        "kind": {"type": "string", "description": "The kind of this object."},
        "metadata": {"type": "object"},
        "spec": _without_notes(structural_schema(resource.spec)),
    }
    if resource.status is not None:
        properties["status"] = _without_notes(structural_schema(resource.status))
        if resource.status_default is not None:
            properties["status"]["default"] = dict(resource.status_default)
    root: Schema = {
        "type": "object",
        "description": resource.description,
        "required": ["spec"],
        "properties": properties,
    }
    if resource.cel_rules:
        root[VALIDATIONS] = [rule.entry() for rule in resource.cel_rules]
    return root


def _without_notes(schema: Any) -> Any:
    """The schema without what only the lint reads."""
    if isinstance(schema, dict):
        return {key: _without_notes(value) for key, value in schema.items() if key != ALLOW_BOOLEAN}
    if isinstance(schema, list):
        return [_without_notes(value) for value in schema]
    return schema
