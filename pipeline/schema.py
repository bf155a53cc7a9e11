"""What a schema of nested dataclasses allows, in words for whoever wrote something else."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Generic, TypeVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

T = TypeVar("T")
FROZEN = ConfigDict(extra="forbid", strict=True)  # of every group of params.yaml
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class Schema(Generic[T]):
    """A type with its JSON schema.

    Parameters
    ----------
    kind : type
        A pydantic dataclass whose fields are groups and values.
    place : tuple of str
        Keys above it, for the messages.
    """

    def __init__(self, kind: type[T], place: tuple[str, ...] = ()) -> None:
        self.kind, self.place = kind, place
        self.adapter = TypeAdapter(kind)

    def read(self, value: Any, mistakes: list[str]) -> T | None:
        """A value of the type; None when there are mistakes, which join the list."""
        try:
            return self.adapter.validate_json(json.dumps(value, default=str))
        except ValidationError as error:
            mistakes += [self.explain(dict(item)) for item in error.errors(include_url=False)]
            return None

    def explain(self, item: dict[str, Any]) -> str:
        """One error of pydantic, with key, value and what is allowed."""
        where = [str(part) for part in item["loc"]]
        key, value = ".".join([*self.place, *where]), item["input"]
        if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            elsewhere = [path for path in self._paths() if where[-1] == path.split(".")[-1]]
            return unknown_key([*self.place, *where], self._keys(where[:-1]), elsewhere)
        if item["type"] in ("missing", "missing_keyword_only_argument"):
            return f"{key} is missing: must be {self.allowed(where)}"
        if item["type"] == "dict_type":
            return f"{key} = {value!r} must be a group with a key for each dataset"
        if item["type"] in ("dataclass_type", "dataclass_exact_type"):
            return f"{key} = {value!r} must be a group of keys: {', '.join(self._keys(where))}"
        return f"{key} = {value!r} is not allowed: must be {self.allowed(where)}"

    def _keys(self, where: Sequence[str]) -> list[str]:
        return list(self._at(where).get("properties", {}))

    def _paths(self, *where: str) -> Iterator[str]:
        """All keys below a path of keys, with dots; DATASET for a key for each dataset."""
        node = self._at(where)
        for key in node.get("properties", {}):
            yield from self._paths(*where, key)
        if where:
            yield ".".join([*self.place, *where])

    def _at(self, where: Sequence[str]) -> dict[str, Any]:
        """The JSON schema of the value at a path of keys."""
        root = self.adapter.json_schema()
        node = root
        for part in where:
            inner = node.get("properties", {}).get(part) or node.get("additionalProperties", {})
            node = node.get("items", {}) if part.isdigit() else inner
            if "$ref" in node:
                node = root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return node

    def allowed(self, where: Sequence[str]) -> str:
        """What the value at a path of keys may be, in words."""
        node = self._at(where)
        if "anyOf" in node:
            return " or ".join(_words(choice) for choice in node["anyOf"])
        if node.get("type") == "array":
            return f"a list of {self.allowed([*where, '0']).removeprefix('a list of ')}"
        return _words(node)


def _words(node: Mapping[str, Any]) -> str:
    """What a schema of one value allows."""
    if "enum" in node:
        return "one of " + ", ".join(map(str, node["enum"]))
    kind = {"integer": "an integer", "number": "a number", "boolean": "true or false"}
    kind |= {"null": "null"}
    words = [kind.get(node.get("type", ""), "text")]
    limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
    limits |= {"exclusiveMaximum": "below", "multipleOf": "a multiple of"}
    words += [f"{text} {node[key]:.10g}" for key, text in limits.items() if key in node]
    return ", ".join(words)


def unknown_key(where: Sequence[str], known: Iterable[str], elsewhere: Sequence[str] = ()) -> str:
    """Why the last of the keys cannot be used, and what may have been meant.

    `elsewhere` are keys of the same name in other groups.
    """
    close = [
        ".".join([*where[:-1], key]) for key in difflib.get_close_matches(where[-1], list(known), 1)
    ]
    meant = [*elsewhere, *close]
    hint = f" Did you mean {' or '.join(meant)}?" if meant else ""
    allowed = ", ".join(known) or "none"
    return f"{'.'.join(where)} is not a known key.{hint} Known here: {allowed}"
