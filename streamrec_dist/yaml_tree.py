"""YAML text as plain values: no tag makes an object, and what a short text may stand for is bounded."""

from __future__ import annotations

from typing import Any

import yaml

#: A configuration has some 200 nodes. Aliases of aliases can make a text of ten lines stand for billions of them.
MOST_NODES = 10_000
#: Digits of an integer: Python takes long over long ones, and writes none of more than 4,300.
MOST_DIGITS = 40
_INT = "tag:yaml.org,2002:int"


def read_yaml(text: str) -> tuple[yaml.Node | None, Any]:
    """The node at the root of a YAML text, None where there is none, and its value.

    Raises yaml.YAMLError, with the line where it is known, for anything but plain values, and for too many of them.
    """
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
        if root is None:
            return None, None
        _check_size(root)
        return root, loader.construct_document(root)
    except RecursionError:
        raise yaml.YAMLError("values are nested too deep") from None
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # What PyYAML raises for a date of month 13, or for !!int with something else behind it.
        raise yaml.YAMLError(f"a value is not what its tag or form says ({error})") from None


def _check_size(root: yaml.Node) -> None:
    """Raise yaml.YAMLError where there are more than MOST_NODES, those behind every alias counted again."""
    waiting, count = [root], 0
    while waiting:
        node = waiting.pop()
        count += 1
        if count > MOST_NODES:
            raise yaml.YAMLError(f"more than {MOST_NODES} values, or an alias that refers to itself")
        if node.tag == _INT and isinstance(node.value, str) and len(node.value) > MOST_DIGITS:
            raise yaml.MarkedYAMLError(None, None, "an integer of so many digits", node.start_mark)
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
