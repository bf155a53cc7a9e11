"""YAML of the user's, read strictly: every mistake gets a message, and no text can hang the reader.

Beside `yaml.safe_load` it refuses a key that is given twice (of which the first would silently be
lost), keys that are not text, anchors and aliases (a few hundred bytes of them stand for
gigabytes), and deep nesting.
"""

from typing import Any

import yaml

from pipeline.errors import DescryError

_DEPTH = 20  # of groups in groups; params.yaml has four


class _Loader(yaml.SafeLoader):
    """`yaml.SafeLoader` with the refusals above."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent) or getattr(event, "anchor", None):
            raise _mistake("anchors and aliases (& and *) are not read: write the value out", event)
        self._depth += 1
        if self._depth > _DEPTH:
            raise _mistake(f"more than {_DEPTH} levels of nesting", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for number, key in enumerate(keys):
            if not isinstance(key, str):
                raise _mistake(f"the key {key!r} is not text: put it into quotes", node)
            if key in keys[:number]:
                raise _mistake(f"the key {key!r} is given twice", node)
        return super().construct_mapping(node, deep)


def _mistake(problem: str, at: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


def read_yaml(text: str, name: str) -> Any:
    """Plain values of a YAML text.

    Parameters
    ----------
    text : str
    name : str
        Of the file or option, for messages.

    Raises
    ------
    DescryError
        When it is not valid or is refused (see above).
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise DescryError(f"{name}: not valid YAML: {error}") from None
    except (ValueError, OverflowError) as error:  # a number or a date that there is not
        raise DescryError(f"{name}: a value cannot be read: {error}") from None
