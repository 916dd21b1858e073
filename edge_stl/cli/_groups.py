"""What `merge` and `inspect` tell of branches that several boxes trained together."""

from collections.abc import Sequence
from typing import Any

from edge_stl.cli._output import print_line


_NAMED = 8  # numbers of a list, in a line


def print_groups(rows: Sequence[dict[str, Any]], *, settings: bool = False) -> None:
    """Print a line for every row that a group made, and one for how.

    Args:
        rows: of a table; their ``cotrained`` is that of the manifest.
        settings: whether to print the second line.
    """
    for row in rows:
        made = row["cotrained"]
        if made is not None:
            print_line(
                f"{row['branch']}.{row['box']}: trained together by {', '.join(made['boxes'])} "
                f"with {made['method']}, {made['rounds']:,} rounds, graph {made['graph']}"
            )
            if settings and "settings" in made:
                print_line(f"  {settings_text(made['method'], made['settings'])}")


def settings_text(method: str, settings: dict[str, Any]) -> str:
    """Return the settings of a group as ``key value`` pairs, those of the method after its name.

    Args:
        method: of the group.
        settings: of the manifest, as JSON values.
    """
    common = [
        f"{key} {_shown(value)}" for key, value in settings.items() if key not in ("edges", "own")
    ]
    if "edges" in settings:
        common.append(f"{len(settings['edges'])} edges")
    text = ", ".join(common)
    if "own" in settings:
        own = ", ".join(f"{key} {_shown(value)}" for key, value in settings["own"].items())
        text += f"; {method}: {own}"
    return text


def _shown(value: Any) -> str:
    if isinstance(value, list):
        more = f" and {len(value) - _NAMED} more" if len(value) > _NAMED else ""
        return " ".join(map(_shown, value[:_NAMED])) + more
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "none"
    return str(value).removesuffix(".0")
