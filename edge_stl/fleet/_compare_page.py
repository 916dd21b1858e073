"""A comparison as rows, as CSV and as a picture of accuracy against bytes."""

import csv
import io
from typing import Any

from edge_stl.errors import UsageError


COLUMNS = ("method", "accuracy", "bytes per box", "of full", "gradients", "seconds", "chosen")

_CSV = (
    "method",
    "title",
    "accuracy",
    "accuracy_std",
    "bytes_total",
    "bytes_per_box",
    "bytes_training",
    "bytes_files",
    "gradients_per_box",
    "seconds",
)
_UNITS = ("B", "kB", "MB", "GB", "TB")
_THOUSAND = 1000


def size_text(size: float) -> str:
    """Return a number of bytes as a person reads it, in powers of 1000."""
    for unit in _UNITS:
        if size < _THOUSAND or unit == _UNITS[-1]:
            return f"{size:.0f} B" if unit == "B" else f"{size:.3g} {unit}"
        size /= _THOUSAND
    raise AssertionError


def table_rows(document: dict[str, Any]) -> list[tuple[str, ...]]:
    """Return one row per method, in the order of the document."""
    full = next((m["bytes_training"] for m in document["methods"] if m["method"] == "full"), None)
    many = document["settings"]["seeds"] > 1
    rows: list[tuple[str, ...]] = []
    for m in document["methods"]:
        spread = f" ± {100 * m['accuracy_std']:.2f}" if many else ""
        rows.append(
            (
                m["title"],
                f"{100 * m['accuracy']:.2f} %{spread}",
                size_text(m["bytes_per_box"]),
                f"{100 * m['bytes_training'] / full:.2f} %" if full else "",
                f"{m['gradients_per_box']:,.0f}",
                f"{m['seconds']:.1f}",
                " ".join(f"{key} {value:g}" for key, value in m["chosen"].items()),
            )
        )
    return rows


def edge_line(document: dict[str, Any]) -> str | None:
    """Return a sentence on the methods that might do better beyond the values tried, if any."""
    found = []
    for m in document["methods"]:
        ends = ", ".join(f"{name} {m['chosen'][name]:g}" for name in m["at_edge"])
        found += [f"{m['title']} ({ends})"] if ends else []
    return f"at the edge of what was tried: {'; '.join(found)}" if found else None


def as_csv(document: dict[str, Any]) -> bytes:
    """Return one line per method, with a header."""
    file = io.StringIO()
    writer = csv.DictWriter(file, _CSV, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(document["methods"])
    return file.getvalue().encode()


def picture(document: dict[str, Any]) -> bytes:
    """Return a PNG: accuracy over the bytes that leave a box, on a logarithmic axis.

    What sends nothing at all has no place on such an axis and is a dashed line.

    Raises:
        UsageError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot as plt
        from matplotlib.ticker import FuncFormatter
    except ImportError:
        raise UsageError("pictures need matplotlib: pip install 'edge-stl[plot]'") from None
    figure, axes = plt.subplots(figsize=(9, 4.8))
    markers = iter("oD^vPX*<>hp8d" * len(document["methods"]))
    for index, m in enumerate(document["methods"]):
        color = f"C{index % 10}"
        accuracy, spread = 100 * m["accuracy"], 100 * m["accuracy_std"]
        if not m["bytes_per_box"]:
            name = f"{m['title']}: 0 bytes"
            axes.axhline(accuracy, color=color, linestyle="--", linewidth=1.2, label=name)
            continue
        marker = next(markers) if m["bytes_training"] else "s"
        axes.errorbar(
            m["bytes_per_box"],
            accuracy,
            yerr=spread,
            color=color,
            marker=marker,
            markersize=7,
            linestyle="none",
            capsize=3,
            label=m["title"],
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: size_text(value)))
    axes.margins(x=0.08, y=0.08)
    axes.set_xlabel("bytes per box: messages of training, branch files, images")
    axes.set_ylabel("test accuracy in %")
    settings = document["settings"]
    axes.set_title(
        f"{settings['boxes']} boxes, {settings['split']}, {settings['graph']}, "
        f"{settings['rounds']} rounds of {settings['steps']} x {settings['batch']} images, "
        f"{settings['network']}",
        fontsize=10,
    )
    axes.grid(visible=True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    figure.tight_layout()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)
    return file.getvalue()
