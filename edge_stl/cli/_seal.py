"""What ``merge`` does with signatures: whose files it takes, and signing what it wrote."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_stl.cli._options import numbers_of


if TYPE_CHECKING:
    from edge_stl.cli._merge import Weights
    from edge_stl.trust import PrivateKey
    from exporter.gate import Gate
    from exporter.merge import Merged

StartNumbersAnew = Annotated[
    bool,
    typer.Option(
        "--start-numbers-anew",
        help="With --trust, once: go on although the numbers taken so far are lost; an old file "
        "may pass for a new one.",
    ),
]


class Seal:
    """The two ends of a merge: the gate at its start, the signature at its end.

    Args:
        trust: ``--trust``, if given.
        anew: ``--start-numbers-anew``.
        key: ``--key``, if given; loaded now, so that a wrong one is told before the work.

    Raises:
        EdgeStlError: the trust file, its numbers or the key cannot be used.
    """

    def __init__(self, trust: Path | None, *, anew: bool, key: Path | None) -> None:
        from edge_stl.errors import UsageError

        if anew and trust is None:
            raise UsageError(
                "--start-numbers-anew: is for --trust; expected --trust FILE beside it"
            )
        self.gate: Gate | None = None
        if trust is not None:
            from exporter import gate

            self.gate = gate.Gate.open(trust, anew=anew)
            if self.gate.note is not None:
                typer.echo(f"note: {self.gate.note}", err=True)
        self._key: PrivateKey | None = None
        if key is not None:
            from edge_stl.trust import load_private_key

            self._key = load_private_key(key)

    def default_weights(self, holdout: Path | None) -> "Weights | None":
        """Return the rule where none was named: with ``--trust`` one that no box can talk up."""
        from edge_stl.cli._merge import Weights

        if self.gate is None:
            return None
        return Weights.uniform if holdout is None else Weights.fitted

    def close(self, out: Path, merged: "Merged") -> dict[str, Any] | None:
        """Sign the ensemble that was written, and then keep the numbers of its branches.

        Returns:
            ``signature`` of ``merge --json``; None without a key.
        """
        row = None if self._key is None else self._sign(self._key, out, merged)
        if self.gate is not None:
            self.gate.remember(merged.files)
        return row

    def _sign(self, key: "PrivateKey", out: Path, merged: "Merged") -> dict[str, Any]:
        from edge_stl.durable import write_durably
        from edge_stl.trust import envelope_path, sign_ensemble

        digest = merged.files[0].plan.digest
        statement, envelope = sign_ensemble(
            key, merged.model, plan_digest=digest, numbers=numbers_of(digest, None, None)
        )
        beside = envelope_path(out)
        write_durably(beside, envelope)
        return {
            "file": str(beside),
            "key": key.public.id,
            "counter": statement.counter,
        }
