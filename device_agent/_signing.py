"""Signing branch files as they are written, where the job names a key."""

from pathlib import Path

from device_agent._types import Job
from device_agent.work import WorkFolder
from edge_stl.durable import write_durably
from edge_stl.errors import UsageError
from edge_stl.trust import COUNTER_FILE, Numbers, envelope_path, load_private_key, sign_branch


def check_signing(job: Job, work: WorkFolder) -> None:
    """Find out before hours of training that the files could not be signed after it.

    Raises:
        UsageError: the key is missing, no key of ours, or lies where branch files are taken from.
        ResourceError: others may read the key.
        IntegrityError: the numbers given so far are damaged.
    """
    if job.key is None:
        return
    if job.out.resolve() in job.key.resolve().parents:
        raise UsageError(
            f"--key {job.key}: lies in the output folder {job.out}, which is copied off the box; "
            "expected a private key elsewhere. Move it"
        )
    load_private_key(job.key)
    Numbers(work.path / COUNTER_FILE).check()


def sign_written(
    job: Job, work: WorkFolder, branch: str, path: Path, data: bytes
) -> dict[str, str | int] | None:
    """Write the signature of a branch file beside it; the file itself is on the disk already.

    Args:
        job: names the key.
        work: keeps the numbers.
        branch: name of the branch.
        path: the branch file.
        data: its bytes.

    Returns:
        ``signature`` of a row of ``train --json``; None without a key.

    Raises:
        EdgeStlError: as `check_signing`, or the disk does not take it.
    """
    if job.key is None:
        return None
    key = load_private_key(job.key)
    statement, envelope = sign_branch(
        key,
        data,
        plan_digest=job.plan.digest,
        box=job.box,
        branch=branch,
        numbers=Numbers(work.path / COUNTER_FILE),
    )
    beside = envelope_path(path)
    write_durably(beside, envelope)
    return {"file": str(beside), "key": key.public.id, "counter": statement.counter}
