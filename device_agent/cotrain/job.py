"""One box of a group: images in, rounds with the other boxes, one branch file for all of them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor

from device_agent import checkpoint
from device_agent._signing import check_signing, sign_written
from device_agent._surroundings import surroundings
from device_agent._types import Job, Reporter, Silent
from device_agent.cache import ImageCache, build_cache
from device_agent.cotrain._end import Counts, End, Ended, largest_message
from device_agent.cotrain._exchange import GlooExchange
from device_agent.cotrain._file import group_file
from device_agent.cotrain._group import Run
from device_agent.cotrain._link import Pulse
from device_agent.cotrain._meeting import Meeting, Place
from device_agent.cotrain._methods import make_engine
from device_agent.cotrain._problem import BranchProblem, refuse_batch_norm
from device_agent.cotrain._rounds import run_rounds
from device_agent.cotrain._saved import SAVE_SECONDS, Saved
from device_agent.cotrain._scores import Scores
from device_agent.cotrain._sent import row, sent_document
from device_agent.cotrain._start import agreed, start_text
from device_agent.job import _fits, _need_torch, _tell_left_out, _torch_settings
from device_agent.pixels import DamagedRows
from device_agent.work import WorkFolder
from edge_stl import __version__
from edge_stl.cotrain import Ledger, Seat
from edge_stl.durable import make_folder, write_durably
from edge_stl.errors import DataError, Interrupted, ResourceError, UsageError
from edge_stl.images import ImageList, scan
from edge_stl.plan import Plan
from exporter.manifest import sha256


@dataclass(frozen=True)
class GroupJob:
    """What one box is to do in its group.

    Attributes:
        job: plan, images, folders, box, threads, key; its ``branch`` is the group's.
        run: the group and the method.
        place: where the boxes meet.
        peer_timeout: seconds of silence after which a box is lost.
        save_seconds: distance of the checkpoints.
    """

    job: Job
    run: Run
    place: Place
    peer_timeout: float = 60.0
    save_seconds: float = SAVE_SECONDS


def run_group_job(
    asked: GroupJob,
    *,
    reporter: Reporter | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Scan, decode, meet the other boxes, train with them, average, write; resumes by itself.

    Args:
        asked: what to do.
        reporter: who is told how far it is.
        should_stop: asked after every image and before every minibatch, and while waiting.

    Returns:
        the document of ``cotrain --json``.

    Raises:
        DataError: the images cannot be used.
        UsageError: the boxes do not agree on what they do, or an address is public.
        ResourceError: disk, work folder or network cannot be used.
        Interrupted: ``should_stop`` said so, or every other box is lost; resumable.
        CheckError: training diverged, or the file failed its check.
    """
    _need_torch()
    reporter = reporter or Silent()
    job, run = asked.job, asked.run
    plan, branch = job.plan, job.plan.branch(run.group.branch)
    refuse_batch_norm(plan, branch)
    _fits(plan, branch)
    # Refuses public addresses: before hours of decoding.
    meeting = Meeting(
        asked.place,
        run.group.boxes,
        limit=asked.peer_timeout,
        should_stop=should_stop,
        told=reporter.note,
    )
    images = scan(job.images, plan.classes)
    make_folder(job.out)
    with WorkFolder(job.work, job.box) as work:
        check_signing(job, work)
        with (
            _opened_cache(job, images, work, reporter, should_stop) as cache,
            _torch_settings(job.threads),
        ):
            _tell_left_out(cache, reporter)
            _carries(plan, cache, run)
            box = _Box(asked, cache, f"{images.digest} {cache.digest}", work, reporter, should_stop)
            return box.run(meeting)


class _Box:
    """A box whose images are decoded."""

    def __init__(
        self,
        asked: GroupJob,
        cache: ImageCache,
        images_digest: str,
        work: WorkFolder,
        reporter: Reporter,
        should_stop: Callable[[], bool],
    ) -> None:
        self._asked, self._run, self._job = asked, asked.run, asked.job
        self._cache, self._work, self._reporter = cache, work, reporter
        self._should_stop = should_stop
        self._pulse = Pulse(asked.peer_timeout)
        self._rank = asked.place.rank
        group = self._run.group
        self._key = _resume_key(asked, images_digest, cache.native_resolution)
        self._problem = BranchProblem(
            cache.pixels,
            cache.labels,
            plan=self._job.plan,
            branch=group.branch,
            batch=group.batch,
            seed=group.seed,
            before=self._look_up,
        )

    def run(self, meeting: Meeting) -> dict[str, Any]:
        asked, run, group = self._asked, self._run, self._run.group
        folder = self._work.branch(f"{group.branch}.{group.name}")
        saved = Saved(folder, self._key, told=self._reporter.note, seconds=asked.save_seconds)
        said = meeting.say(self._facts(saved.rounds))
        try:
            start = agreed(said, self._facts(saved.rounds), group.boxes, self._rank)
        except UsageError:
            meeting.leave()
            raise
        parameters = sum(shape.numel() for shape in self._problem.shapes)
        # The first box sends what all gave, where the method gathers.
        copies = len(group.boxes) if run.method == "pca" else 2
        largest = largest_message(parameters, len(self._job.plan.classes), copies=copies)
        links = meeting.links(largest=largest, pulse=self._pulse)
        ledger = Ledger()
        exchange = GlooExchange(
            self._rank,
            links,
            names=group.boxes,
            ledger=ledger,
            pulse=self._pulse,
            told=self._reporter.note,
            check=self._look_up,
        )
        try:
            seat = Seat(self._rank, run.graph.neighbours[self._rank], group.seed)
            counts = self._problem.branch.minibatches.train_counts
            engine = make_engine(run, seat, self._problem, exchange, images=sum(counts))
            left = saved.load(start)
            if left is not None:
                state, earlier = left
                engine.restore(state)
                for number, amount in enumerate(earlier.sent.get(0, ())):
                    ledger.add(self._rank, number, amount)
            saved.went_on(start)
            text = start_text(said, group.boxes, start=start, kept=saved.rounds)
            if text:
                self._reporter.note(text)
            seconds = run_rounds(
                engine,
                exchange,
                start=start,
                rounds=group.rounds,
                saved=saved,
                ledger=ledger,
                after=self._tell,
            )
            end = End(
                exchange,
                rounds=group.rounds,
                boxes=len(group.boxes),
                sent=lambda: ledger.node(self._rank),
                classes=len(self._job.plan.classes),
                floor=self._job.plan.privacy.min_count,
                answer=self._answer,
                held_back=self._problem.held_back,
                write=self._write,
                hub=group.boxes[0] if run.method in ("fedavg", "feddip") else None,
            )
            ended = end.run(engine.vector, counts)
            idle = sum(link.idle_bytes for link in links.values())
        finally:
            exchange.close()
        return self._report(ended, exchange, ledger, start=start, seconds=seconds, idle=idle)

    # -- what the others are told ---------------------------------------------------------------

    def _facts(self, rounds: Sequence[int]) -> dict[str, Any]:
        return {
            "box": self._job.box,
            "version": __version__,
            "plan": self._job.plan.digest,
            "group": self._run.digest,
            "resolution": self._cache.native_resolution,
            "patience": self._asked.peer_timeout,
            "rounds": list(rounds),
        }

    # -- on the way -----------------------------------------------------------------------------

    def _look_up(self) -> None:
        self._pulse.tick()
        if self._should_stop():
            raise Interrupted("stopped")

    def _tell(self, done: int, loss: float) -> None:
        group = self._run.group
        epoch = done * group.steps // self._problem.branch.minibatches.count
        self._reporter.training(group.branch, done, group.rounds, epoch, loss)

    # -- the end --------------------------------------------------------------------------------

    def _answer(self, mean: Tensor) -> Any:
        self._problem.load(mean)
        self._pulse.tick()
        return self._problem.held_back_answers()

    def _write(
        self, mean: Tensor, counts: Counts, scores: Scores, members: Sequence[int]
    ) -> dict[str, Any]:
        job, run = self._job, self._run
        self._problem.load(mean)
        data, validation = group_file(
            self._problem.branch, run, counts, scores, members=members, threads=job.threads
        )
        path = job.out / f"{run.group.branch}.{run.group.name}.onnx"
        write_durably(path, data)
        # Signed by the box that writes it, under the group's id.
        named = replace(job, box=run.group.name)
        signature = sign_written(named, self._work, run.group.branch, path, data)
        self._path, self._signature = path, signature
        return {
            "sha256": sha256(data),
            "images": sum(counts.train),
            "classes_seen": sum(n > 0 for n in counts.train),
            "validation": validation,
        }

    def _report(
        self,
        ended: Ended,
        exchange: GlooExchange,
        ledger: Ledger,
        *,
        start: int,
        seconds: float,
        idle: int,
    ) -> dict[str, Any]:
        run, group = self._run, self._run.group
        wrote = ended.writer == self._rank
        return {
            "method": run.method,
            "group": group.name,
            "branch": group.branch,
            "box": self._job.box,
            "rank": self._rank,
            "boxes": list(group.boxes),
            "members": [group.boxes[rank] for rank in ended.members],
            "lost": [
                {"box": group.boxes[rank], "reason": reason}
                for rank, reason in sorted(exchange.lost.items())
            ],
            "written_by": group.boxes[ended.writer],
            "file": str(self._path) if wrote else None,
            "signature": self._signature if wrote else None,
            **ended.facts,
            "graph": run.graph_name,
            "rounds": group.rounds,
            "resumed_at": start,
            "native_resolution": self._cache.native_resolution,
            "parameters": sum(shape.numel() for shape in self._problem.shapes),
            "sent": row(ledger.node(self._rank)) | {"idle": idle},
            "bytes": sent_document(group.boxes, ended.sent),
            "seconds": round(seconds, 3),
            "surroundings": surroundings(threads=self._job.threads),
            "left_out": dict(self._cache.left_out),
        }


@contextmanager
def _opened_cache(
    job: Job,
    images: ImageList,
    work: WorkFolder,
    reporter: Reporter,
    should_stop: Callable[[], bool],
) -> Iterator[ImageCache]:
    """Open the cache of the box; where a row turns out damaged, it is built anew for the next run.

    Raises:
        ResourceError: it was damaged: the other boxes have gone on meanwhile.
    """
    build = partial(
        build_cache,
        images,
        resolution=job.plan.input.resolution,
        levels=job.plan.bank.levels,
        channels=job.plan.input.channels,
        fit=job.plan.input.fit,
        max_pixels=job.plan.limits.max_image_pixels,
        max_bytes=job.plan.limits.max_image_bytes,
        folder=work.path / "images",
        told=reporter.note,
        progress=reporter.decoding,
        should_stop=should_stop,
    )
    cache = build()
    try:
        yield cache
    except DamagedRows:
        cache.pixels.close()
        build(anew=True).pixels.close()
        raise ResourceError(
            f"{cache.pixels.path}: was damaged, and is built anew; expected no change under a "
            "running agent. Run the same command on all boxes again"
        ) from None
    finally:
        cache.pixels.close()


def _resume_key(asked: GroupJob, images: str, native_resolution: int) -> str:
    """Return the digest of everything that the rounds kept here belong to."""
    return checkpoint.resume_key(
        plan=asked.job.plan.digest,
        run=asked.run.digest,
        box=asked.job.box,
        images=images,
        native_resolution=native_resolution,
        version=__version__,
    )


def _carries(plan: Plan, cache: ImageCache, run: Run) -> None:
    branch = plan.branch(run.group.branch)
    if branch not in plan.carried(cache.native_resolution):
        raise DataError(
            f"branch {branch.name}: the images reach {cache.native_resolution} px; it needs "
            f"{plan.required_resolution(branch)}. Use finer images, or another branch"
        )
