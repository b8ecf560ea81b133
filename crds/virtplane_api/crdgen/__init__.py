"""Structural Kubernetes CRDs (apiextensions.k8s.io/v1) from pydantic models.

Write the API as models of `StructuralModel`, mark what Kubernetes wants to know beyond JSON Schema with the markers,
put them into a `CustomResource`, and `crd` gives the CustomResourceDefinition as a dict. Nothing here knows a kind.
"""

from virtplane_api.crdgen.lint import lint
from virtplane_api.crdgen.markers import (
    AllowBoolean,
    Cel,
    CelRule,
    ListAtomic,
    ListMap,
    ListSet,
    MapAtomic,
    PreserveUnknown,
    Quantity,
    SchemaDefault,
)
from virtplane_api.crdgen.resource import CustomResource, PrinterColumn, crd, to_yaml
from virtplane_api.crdgen.schema import StructuralModel, UnstructuralError, structural_schema

__all__ = [
    "AllowBoolean",
    "Cel",
    "CelRule",
    "CustomResource",
    "ListAtomic",
    "ListMap",
    "ListSet",
    "MapAtomic",
    "PreserveUnknown",
    "PrinterColumn",
    "Quantity",
    "SchemaDefault",
    "StructuralModel",
    "UnstructuralError",
    "crd",
    "lint",
    "structural_schema",
    "to_yaml",
]
