"""Find the line of a key in a YAML text, so that an error can name it."""

import yaml


def line_of(text: str, key: str) -> int | None:
    """Return the line (from 1) of a dotted key; of its nearest parent when the key itself is missing; None when none is there.

    A part in a list (`match.runtimes[0]`) is found by the list's own key.
    """
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError):
        return None
    line = None
    for part in key.replace("[", ".[").split("."):
        if not isinstance(node, yaml.MappingNode) or part.startswith("["):
            break
        entry = next((pair for pair in node.value if pair[0].value == part), None)
        if entry is None:
            break
        line, node = entry[0].start_mark.line + 1, entry[1]
    return line
