"""What `merge` and `inspect` tell of branches that several boxes trained together."""

from collections.abc import Sequence
from typing import Any

from edge_stl.cli._output import print_line


def print_groups(rows: Sequence[dict[str, Any]]) -> None:
    """Print a line for every row that a group made; its ``cotrained`` is that of the manifest."""
    for row in rows:
        made = row["cotrained"]
        if made is not None:
            print_line(
                f"{row['branch']}.{row['box']}: trained together by {', '.join(made['boxes'])} "
                f"with {made['method']}, {made['rounds']:,} rounds, graph {made['graph']}"
            )
