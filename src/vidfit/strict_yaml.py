"""Parse YAML in which every key is text and stands once in its mapping.

YAML itself lets the last of two equal keys win, and reads `no` and `1` as a boolean and a number. Both lose what the
user wrote. Merge keys (`<<: *base`) work as usual: a mapping's own keys go before merged ones.
"""

import re
from typing import Any

import yaml

_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


def parse_yaml(text: bytes | str) -> Any:
    """The value of a YAML document.

    Raises:
        ValueError: in one line, the text is no YAML, a key stands twice in a mapping or is no text.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    except _KeyError as error:
        raise ValueError(str(error)) from error
    except RecursionError as error:
        raise ValueError("not YAML: nested too deeply") from error
    except ValueError as error:  # an impossible date
        raise ValueError(f"not YAML: {error}") from error


class _KeyError(Exception):
    pass


class _Loader(yaml.SafeLoader):
    # Python passes a path's bytes that are not UTF-8 on as surrogates; `--set` may have them.
    NON_PRINTABLE = re.compile(  # type: ignore[reportGeneralTypeIssues] - types-PyYAML has it as a constant
        "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\udc80-\udcff\ue000-\ufffd\U00010000-\U0010ffff]"
    )

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if key.tag == _MERGE:
                continue
            if key.tag != _TEXT:
                what = f"the key {key.value}" if isinstance(key, yaml.ScalarNode) else "a key"
                hint = f"; write '{key.value}' in quotes" if isinstance(key, yaml.ScalarNode) and key.value else ""
                raise _KeyError(f"line {line}: {what} is not text in YAML{hint}")
            if key.value in lines:
                raise _KeyError(f"lines {lines[key.value]} and {line}: the key {key.value} stands twice; remove one")
            lines[key.value] = line
        return node
