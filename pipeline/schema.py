"""What a schema of nested dataclasses allows, in words for whoever wrote something else."""

import difflib
from collections.abc import Sequence
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


class Schema(Generic[T]):
    """A type with its JSON schema.

    Parameters
    ----------
    adapter : TypeAdapter
        Of a pydantic dataclass whose fields are groups and values.
    """

    def __init__(self, adapter: TypeAdapter[T]) -> None:
        self.adapter = adapter

    def explain(self, item: dict[str, Any]) -> str:
        """One error of pydantic, with key, value and what is allowed."""
        where = [str(part) for part in item["loc"]]
        key, value = ".".join(where), item["input"]
        if item["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
            return self._unknown(where)
        if item["type"] in ("missing", "missing_keyword_only_argument"):
            return f"{key} is missing: must be {self._allowed(where)}"
        if item["type"] in ("dataclass_type", "dataclass_exact_type"):
            return f"{key} = {value!r} must be a group of keys: {', '.join(self._keys(where))}"
        return f"{key} = {value!r} is not allowed: must be {self._allowed(where)}"

    def _unknown(self, where: list[str]) -> str:
        known = self._keys(where[:-1])
        close = difflib.get_close_matches(where[-1], known, 1)
        hint = f" Did you mean {'.'.join([*where[:-1], close[0]])}?" if close else ""
        allowed = ", ".join(known) or "none"
        return f"{'.'.join(where)} is not a known key.{hint} Known here: {allowed}"

    def _keys(self, where: Sequence[str]) -> list[str]:
        return list(self._at(where).get("properties", {}))

    def _at(self, where: Sequence[str]) -> dict[str, Any]:
        """The JSON schema of the value at a path of keys."""
        root = self.adapter.json_schema()
        node = root
        for part in where:
            inner = node.get("properties", {}).get(part, {})
            node = node.get("items", {}) if part.isdigit() else inner
            if "$ref" in node:
                node = root["$defs"][node["$ref"].rsplit("/", 1)[-1]]
        return node

    def _allowed(self, where: Sequence[str]) -> str:
        node = self._at(where)
        if "enum" in node:
            return "one of " + ", ".join(map(str, node["enum"]))
        if node.get("type") == "array":
            return f"a list of {self._allowed([*where, '0']).removeprefix('a list of ')}"
        kind = {"integer": "an integer", "number": "a number", "boolean": "true or false"}
        words = [kind.get(node.get("type", ""), "text")]
        limits = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most"}
        limits |= {"exclusiveMaximum": "below", "multipleOf": "a multiple of"}
        words += [f"{text} {node[key]:g}" for key, text in limits.items() if key in node]
        return ", ".join(words)
