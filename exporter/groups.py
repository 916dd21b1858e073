"""Taking boxes out of an ensemble, where some of its files were trained by several together.

Such a file has the id of its group where others have that of their box, so it is weighed, kept and
removed under it. What a member put into it cannot be taken out again; only the file can.
"""

from collections.abc import Sequence

from edge_stl.errors import UsageError
from exporter.manifest import Manifest
from exporter.read import BranchFile


_NAMED = 10  # boxes, in a sentence


def without(
    files: Sequence[BranchFile], remove: Sequence[str], *, name: str, force: bool
) -> list[BranchFile]:
    """Return the files that stay when these ids go.

    Args:
        files: of an ensemble.
        remove: ids of boxes, groups, or ``branch.box``.
        name: of the ensemble, for messages.
        force: a box takes the files of its groups with it.

    Raises:
        UsageError: an id names nothing, or a box whose groups would go with it unasked.
    """
    named = [f for f in files if not {f.manifest.box, f.manifest.id}.isdisjoint(remove)]
    gone = list(named)
    for identity in remove:
        own = [f for f in files if identity in (f.manifest.box, f.manifest.id)]
        joint = [f for f in files if f not in named and _took_part(f.manifest, identity)]
        if not own and not any(_took_part(f.manifest, identity) for f in files):
            known = sorted({f.manifest.box for f in files})
            ids = sorted(f.manifest.id for f in files)
            raise UsageError(
                f"--remove {identity}: neither a box nor a branch of {name}; it has boxes "
                f"{', '.join(known)} and branches {', '.join(ids)}"
            )
        if joint and not force:
            raise UsageError(_unasked(identity, own, joint))
        gone += joint
    return [f for f in files if f not in gone]


def _took_part(manifest: Manifest, identity: str) -> bool:
    """Return whether a box, or ``branch.box``, is one of those that trained a file together."""
    if manifest.cotrained is None:
        return False
    boxes = manifest.cotrained.boxes
    return identity in boxes or identity in {f"{manifest.branch}.{box}" for box in boxes}


def _unasked(identity: str, own: Sequence[BranchFile], joint: Sequence[BranchFile]) -> str:
    """Return what a box takes with it, for a person who named the box alone."""
    box = identity.rpartition(".")[2]
    parts = []
    for file in joint:
        made = file.manifest.cotrained
        others = [b for b in made.boxes if b != box] if made is not None else []
        parts.append(f"{file.manifest.id} together with {_listed(others)}")
    trained = f"it trained {' and '.join(parts)}"
    if own:
        files = _listed([f.manifest.id for f in own])
        has, goes = f"has {files} of its own", f"{'all' if len(own) + len(joint) > 2 else 'both'}"  # noqa: PLR2004
    else:
        has = "has no file of its own here"
        goes = "that file" if len(joint) == 1 else "those files"
    them = "it" if goes == "that file" else "them"
    return f"{identity} {has}; {trained}; removing it removes {goes}. Add --force to remove {them}"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
