"""May these branch files be merged, and if not, every reason why. Nothing is built here."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_stl.errors import DataError
from edge_stl.plan import Plan
from exporter.gate import Gate, Untrusted
from exporter.read import BranchFile, Unusable, read_branch


@dataclass(frozen=True)
class Refusal:
    """A file that may not be merged, with every reason.

    Attributes:
        file: its name.
        reasons: sentences without it.
        signature: they are all about its signature; nothing else was looked at.
    """

    file: str
    reasons: tuple[str, ...]
    signature: bool = False

    def __str__(self) -> str:
        """Return one line: file, colon, reasons."""
        return f"{self.file}: {'; '.join(self.reasons)}"


@dataclass(frozen=True)
class Agreement:
    """The files that fit each other, in canonical order, and the refused ones."""

    files: tuple[BranchFile, ...]
    refused: tuple[Refusal, ...]


def read_all(
    paths: Sequence[Path], *, gate: Gate | None = None, accept_graphs: bool = False
) -> tuple[list[BranchFile], list[Refusal]]:
    """Read branch files; what cannot be read or used, or has no good signature, is a refusal."""
    files, refused = [], []
    for path in paths:
        try:
            read = read_branch if gate is None else gate.read
            files.append(read(path, accept_graphs=accept_graphs))
        except Untrusted as verdict:
            refused.append(Refusal(path.name, tuple(verdict.reasons), signature=True))
        except Unusable as verdict:
            refused.append(Refusal(path.name, tuple(verdict.reasons)))
        except DataError as error:
            refused.append(Refusal(path.name, (str(error).removeprefix(f"{path}: "),)))
    return files, refused


def agree(files: Sequence[BranchFile]) -> Agreement:
    """Decide which files belong together.

    The plan is the one that most files have; files of another plan are refused with what differs.
    The same bytes given twice count once; two different files of one branch and box are both
    refused. The order of the result does not depend on the order given: plan order of the
    branches, then box id.
    """
    if not files:
        return Agreement((), ())
    refused: list[Refusal] = []
    plan, rivals = _common_plan(files)
    fitting = []
    for file in files:
        if file.plan.digest == plan.digest:
            fitting.append(file)
        else:
            refused.append(Refusal(file.name, (*_differences(file.plan, plan), *rivals)))
    by_id: dict[str, dict[str, BranchFile]] = defaultdict(dict)
    for file in fitting:
        by_id[file.manifest.id].setdefault(file.sha256, file)
    accepted: list[BranchFile] = []
    for identity, versions in by_id.items():
        if len(versions) == 1:
            accepted += versions.values()
            continue
        digests = sorted(digest[:12] for digest in versions)
        refused += [
            Refusal(
                file.name,
                (
                    f"is one of {len(versions)} different files of {identity} (sha256 "
                    f"{', '.join(digests)}); keep the one its box made last",
                ),
            )
            for _, file in sorted(versions.items())
        ]
    order = [branch.name for branch in plan.branches]
    accepted.sort(key=lambda f: (order.index(f.manifest.branch), f.manifest.box))
    refused.sort(key=lambda r: (r.file, r.reasons))
    return Agreement(tuple(accepted), tuple(refused))


def _common_plan(files: Sequence[BranchFile]) -> tuple[Plan, tuple[str, ...]]:
    """Return the plan that most branches have; a tie goes to the smallest digest."""
    votes = Counter({digest: len(ids) for digest, ids in _ids_of_plan(files).items()})
    ranking = sorted(votes, key=lambda digest: (-votes[digest], digest))
    plan = next(file.plan for file in files if file.plan.digest == ranking[0])
    tied = len(ranking) > 1 and votes[ranking[0]] == votes[ranking[1]]
    note = "as many files have the one plan as the other: name only the files of one"
    return plan, ((note,) if tied else ())


def _ids_of_plan(files: Sequence[BranchFile]) -> dict[str, set[str]]:
    ids: dict[str, set[str]] = defaultdict(set)
    for file in files:
        ids[file.plan.digest].add(file.manifest.id)
    return ids


def _differences(plan: Plan, common: Plan) -> list[str]:
    reasons = [
        f"was made under another plan (digest {plan.digest[:12]}, the other files have "
        f"{common.digest[:12]})"
    ]
    if plan.classes != common.classes:
        if sorted(plan.classes) == sorted(common.classes):
            reasons.append("its classes are in another order")
        else:
            more = sorted(set(plan.classes) - set(common.classes))
            less = sorted(set(common.classes) - set(plan.classes))
            text = [f"more {more}"] * bool(more) + [f"missing {less}"] * bool(less)
            reasons.append(f"its classes differ: {', '.join(text)}")
    tables = ("input", "transform", "branches", "training", "augment", "fusion")
    return reasons + [
        f"its [{t}] differs" for t in tables if getattr(plan, t) != getattr(common, t)
    ]
