"""Python type -> structural schema, and what the lint says of it."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
from pydantic import Field

from virtplane_api.crdgen import (
    AllowBoolean,
    Cel,
    CelRule,
    CustomResource,
    ListMap,
    ListSet,
    MapAtomic,
    PreserveUnknown,
    Quantity,
    SchemaDefault,
    StructuralModel,
    UnstructuralError,
    crd,
    lint,
    structural_schema,
)


class Colour(StrEnum):
    RED = "Red"
    BLUE = "Blue"


class Item(StructuralModel):
    """One item."""

    cel_rules = (CelRule("self.nameOfIt != 'x'", "not x"),)

    name_of_it: Annotated[str, Field(max_length=8)]


SCHEMAS: list[tuple[str, Any, dict[str, Any]]] = [
    ("a bounded string", Annotated[str, Field(max_length=5)], {"type": "string", "maxLength": 5}),
    ("a pattern", Annotated[str, Field(pattern="^a$")], {"type": "string", "pattern": "^a$"}),
    ("a time", datetime, {"type": "string", "format": "date-time"}),
    (
        "a small integer",
        Annotated[int, Field(ge=1, le=512)],
        {"type": "integer", "format": "int32", "minimum": 1, "maximum": 512},
    ),
    (
        "a large integer",
        Annotated[int, Field(ge=0, le=1 << 40)],
        {"type": "integer", "format": "int64", "minimum": 0, "maximum": 1 << 40},
    ),
    ("a boolean", Annotated[bool, AllowBoolean()], {"type": "boolean", "x-lint-allow-boolean": True}),
    ("a literal", Literal["One"], {"type": "string", "enum": ["One"]}),
    ("several literals", Literal["One", "Two"], {"type": "string", "enum": ["One", "Two"]}),
    (
        "a set",
        Annotated[list[Annotated[str, Field(max_length=3)]], ListSet(), Field(max_length=4)],
        {
            "type": "array",
            "maxItems": 4,
            "x-kubernetes-list-type": "set",
            "items": {"type": "string", "maxLength": 3},
        },
    ),
    (
        "a map of strings, owned as a whole",
        Annotated[dict[str, Annotated[str, Field(max_length=3)]], MapAtomic(), Field(max_length=4)],
        {
            "type": "object",
            "maxProperties": 4,
            "x-kubernetes-map-type": "atomic",
            "additionalProperties": {"type": "string", "maxLength": 3},
        },
    ),
    (
        "an open object",
        Annotated[dict[str, Any], PreserveUnknown()],
        {"type": "object", "x-kubernetes-preserve-unknown-fields": True},
    ),
    (
        "two rules on one field",
        Annotated[str, Cel("self != 'a'", "not a"), Cel("self != 'b'", "not b")],
        {
            "type": "string",
            "x-kubernetes-validations": [
                {"rule": "self != 'a'", "message": "not a"},
                {"rule": "self != 'b'", "message": "not b"},
            ],
        },
    ),
    ("a persisted default", Annotated[str, SchemaDefault("a")], {"type": "string", "default": "a"}),
]


@pytest.mark.parametrize(("annotation", "expected"), [row[1:] for row in SCHEMAS], ids=[row[0] for row in SCHEMAS])
@pytest.mark.parametrize("optional", [False, True], ids=["required", "optional"])
def test_a_type_becomes_its_schema_whether_required_or_not(
    annotation: Any,
    expected: dict[str, Any],
    optional: bool,  # noqa: FBT001
) -> None:
    fields: dict[str, Any] = {"__annotations__": {"some_field": annotation | None if optional else annotation}}
    if optional:
        fields["some_field"] = None
    model = type("Model", (StructuralModel,), fields | {"__module__": __name__})
    schema = structural_schema(model)
    assert schema["properties"] == {"someField": expected}
    assert schema.get("required") == (None if optional else ["someField"])


def test_an_enum_s_values_and_the_field_s_own_words_are_kept() -> None:
    class Model(StructuralModel):
        colour: Colour = Field(description="What it looks like.", examples=["Red"])

    assert structural_schema(Model)["properties"]["colour"] == {
        "type": "string",
        "enum": ["Red", "Blue"],
        "description": "What it looks like. Example: Red",
        "example": "Red",
    }


def test_models_are_inlined_with_their_rules() -> None:
    class Model(StructuralModel):
        items: Annotated[list[Item], ListMap("nameOfIt"), Field(max_length=3)] | None = None
        single: Item = Field(description="The one.")

    schema = structural_schema(Model)
    item = {
        "type": "object",
        "properties": {"nameOfIt": {"type": "string", "maxLength": 8}},
        "required": ["nameOfIt"],
        "x-kubernetes-validations": [{"rule": "self.nameOfIt != 'x'", "message": "not x"}],
    }
    assert schema["properties"]["items"] == {
        "type": "array",
        "maxItems": 3,
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["nameOfIt"],
        "items": item | {"description": "One item."},
    }
    assert schema["properties"]["single"] == item | {"description": "The one."}


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        pytest.param(int | str, "Model.field: a union of types", id="a union"),
        pytest.param(Any, "Model.field: has no type", id="anything"),
        pytest.param(dict[str, Any], "Model.field: an object needs known fields", id="an open object, not marked"),
        pytest.param(tuple[int, str], "Model.field: a structural schema has no prefixItems", id="a tuple"),
    ],
)
def test_what_kubernetes_cannot_express_is_refused_with_its_path(annotation: Any, message: str) -> None:
    model = type("Model", (StructuralModel,), {"__annotations__": {"field": annotation}, "__module__": __name__})
    with pytest.raises(UnstructuralError, match=message):
        structural_schema(model)


def resource(spec: type[StructuralModel], **options: Any) -> CustomResource:
    return CustomResource(
        group="example.test",
        version="v1",
        kind="Thing",
        plural="things",
        singular="thing",
        short_names=("th",),
        categories=("all-things",),
        scope="Namespaced",
        description="A thing.",
        spec=spec,
        **options,
    )


def test_the_lint_names_each_shortcoming_by_its_path() -> None:
    class Bare(StructuralModel):
        text: Annotated[str, SchemaDefault("x")]

    class Sloppy(StructuralModel):
        text: str
        number: int
        ratio: float
        flag: bool
        names: list[str]
        bare: list[Bare]
        labels: dict[str, Annotated[str, Field(max_length=3)]]

    said = {line for line in lint(resource(Sloppy)) if "description" not in line and "example" not in line}
    assert said == {
        "Thing.spec.text: a string needs a maximum length",
        "Thing.spec.number: an integer needs a minimum and a maximum",
        "Thing.spec.ratio: a floating-point number does not survive a round trip; use a quantity or an integer",
        "Thing.spec.flag: a boolean cannot grow a third value; use an enum, or AllowBoolean()",
        "Thing.spec.names: a list needs a maximum of items",
        "Thing.spec.names[]: a string needs a maximum length",
        "Thing.spec.bare: a list needs a maximum of items",
        "Thing.spec.bare: a list of objects needs a list type (ListMap, ListAtomic)",
        "Thing.spec.bare[].text: a string needs a maximum length",
        "Thing.spec.labels: a map needs a maximum of entries",
    } | {line for line in said if line.startswith("Thing.spec.bare[].text: a default inside a list item")}
    assert "Thing.spec.text: has no description" in lint(resource(Sloppy))
    assert "Thing.spec.text: has no example" in lint(resource(Sloppy))
    assert any("a default inside a list item" in line for line in lint(resource(Sloppy)))


def test_notes_for_the_lint_do_not_reach_the_crd() -> None:
    class Spec(StructuralModel):
        flag: Annotated[bool, AllowBoolean()]
        size: Quantity

    assert "x-lint" not in str(crd(resource(Spec)))
