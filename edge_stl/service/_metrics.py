"""The Prometheus text file: https://prometheus.io/docs/instrumenting/exposition_formats/.

For the textfile collector of node_exporter, which reads whole files (``*.prom``) from a folder.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Metric:
    """One metric: its samples by their labels."""

    name: str
    kind: str
    help: str
    samples: Mapping[tuple[tuple[str, str], ...], float]


@dataclass
class Numbers:
    """What the service counts.

    Attributes:
        facts: version, plan digest and box, as labels.
        images: at the last look; None before it.
        new: of them, settled and not trained on yet.
        left_out: of the last training, by reason.
        training: whether the agent runs.
        steps: branch -> (steps done, steps planned, epochs done, loss in nats).
        checkpoint_age: branch -> seconds since its checkpoint was last seen to change.
        trainings: that ended well.
        failures: that did not, each of which is started again.
        last_success: seconds since 1970; None before.
        paused: reason -> whether.
        rss: of the agent, bytes; None where it does not run.
        celsius: zone -> temperature.
    """

    facts: dict[str, str] = field(default_factory=dict)
    images: int | None = None
    new: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    training: bool = False
    steps: dict[str, tuple[int, int, int, float]] = field(default_factory=dict)
    checkpoint_age: dict[str, float] = field(default_factory=dict)
    trainings: int = 0
    failures: int = 0
    last_success: float | None = None
    paused: dict[str, bool] = field(default_factory=dict)
    rss: int | None = None
    celsius: dict[str, float] = field(default_factory=dict)

    def metrics(self) -> list[Metric]:
        """Return them as metrics; what is not known is not there."""
        steps = self.steps
        return [
            _gauge("info", "What runs here.", {tuple(sorted(self.facts.items())): 1}),
            _gauge("images", "Images at the last look.", _alone(self.images)),
            _gauge("images_new", "Of them, whole and not trained on yet.", {(): self.new}),
            _gauge(
                "images_left_out",
                "Files that the last training left out.",
                _by("reason", self.left_out),
            ),
            _gauge("training", "1 while the agent trains.", {(): self.training}),
            _gauge("steps_done", "Steps done.", _by("branch", {b: s[0] for b, s in steps.items()})),
            _gauge(
                "steps_planned",
                "Steps of the whole training.",
                _by("branch", {b: s[1] for b, s in steps.items()}),
            ),
            _gauge(
                "epochs_done", "Whole epochs.", _by("branch", {b: s[2] for b, s in steps.items()})
            ),
            _gauge(
                "loss_nats",
                "Training loss of the last step told.",
                _by("branch", {b: s[3] for b, s in steps.items()}),
            ),
            _gauge(
                "checkpoint_age_seconds",
                "Seconds since a new checkpoint was seen.",
                _by("branch", self.checkpoint_age),
            ),
            _counter("trainings_total", "Trainings that wrote their files.", self.trainings),
            _counter("failures_total", "Trainings that failed.", self.failures),
            _gauge(
                "last_success_timestamp_seconds",
                "When the last training wrote its files, by this machine's clock.",
                _alone(self.last_success),
            ),
            _gauge(
                "paused", "1 for the reason why nothing is trained.", _by("reason", self.paused)
            ),
            _gauge("resident_memory_bytes", "Memory of the agent.", _alone(self.rss)),
            _gauge("celsius", "Temperature of a thermal zone.", _by("zone", self.celsius)),
        ]


def render(metrics: Iterable[Metric]) -> str:
    """Return the text of metrics; one without samples is left out."""
    lines: list[str] = []
    for metric in metrics:
        if not metric.samples:
            continue
        lines += [
            f"# HELP {metric.name} {_help(metric.help)}",
            f"# TYPE {metric.name} {metric.kind}",
        ]
        for labels, value in metric.samples.items():
            inner = ",".join(f'{name}="{_label(text)}"' for name, text in labels)
            lines.append(
                f"{metric.name}{{{inner}}} {_number(value)}"
                if inner
                else f"{metric.name} {_number(value)}"
            )
    return "".join(f"{line}\n" for line in lines)


def _gauge(name: str, text: str, samples: Mapping[tuple[tuple[str, str], ...], float]) -> Metric:
    return Metric(f"edge_stl_{name}", "gauge", text, samples)


def _counter(name: str, text: str, value: float) -> Metric:
    return Metric(f"edge_stl_{name}", "counter", text, {(): value})


def _alone(value: float | None) -> dict[tuple[tuple[str, str], ...], float]:
    return {} if value is None else {(): value}


def _by(label: str, values: Mapping[str, float]) -> dict[tuple[tuple[str, str], ...], float]:
    return {((label, key),): value for key, value in sorted(values.items())}


def _number(value: float) -> str:
    text = repr(float(value))
    return {"nan": "NaN", "inf": "+Inf", "-inf": "-Inf"}.get(text, text.removesuffix(".0"))


def _help(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _label(text: str) -> str:
    safe = text.encode("utf-8", "replace").decode()  # a name that is no UTF-8 is no label value
    return safe.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
