"""Tests of the tests: every defence is taken out of a copy of the tree, and a test must fail.

``python tests/crash/mutants.py [--only WORD] [--fast]`` from anywhere. A row whose old text does
not stand in its file exactly once is an error, so that no later change disarms it in silence.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from cotrain_mutants import ROWS  # beside this program


ROOT = Path(__file__).parents[2]
TREE = ("edge_stl", "device_agent", "exporter", "tests", "docs", "pyproject.toml", "README.md")
_FAILED = 1  # pytest's: tests ran, and some of them failed
_LIMIT = 900.0  # seconds: a defence against waiting for ever may be the one that is gone


@dataclass(frozen=True)
class Mutant:
    """A defence that is not there.

    Attributes:
        name: the defence.
        file: where it is.
        old: what stands there, exactly once.
        new: what stands there without it.
        test: the test, or the file of tests, that must fail.
        fast: it takes a few seconds, and is tried at every run of the tests.
    """

    name: str
    file: str
    old: str
    new: str
    test: str
    fast: bool = False


_POWER = "tests/durable/test_power_loss.py"
_DAMAGE = "tests/agent/test_damage.py"
_IO = "tests/agent/test_io_errors.py"
_CACHE = "tests/agent/test_cache.py"
_MENDING = "tests/agent/test_mending.py"
_JOB = "tests/agent/test_job.py"
_RESUME = "tests/agent/test_resume.py"
_WORK = "tests/agent/test_work.py"
_TWO = "tests/crash/test_two_agents.py"
_LEFT = "tests/crash/test_leftovers.py"
_CLOCK = "tests/crash/test_clock.py"
_CRASH = "tests/crash/test_crash_points.py"
_JSON = "tests/exporter/test_hostile_json.py"
_MODELS = "tests/exporter/test_hostile_models.py"
_BOMB = f"{_MODELS}::test_a_bomb_is_refused_within_300_megabytes"
_NUMBER = f"{_MODELS}::test_numbers_that_cannot_be_are_refused_before_anything_runs"
_STRANGER = f"{_MODELS}::test_no_session_is_ever_made_from_a_strangers_bytes"
_OWN = "tests/exporter/test_own_graphs.py"
_OWN_HOSTILE = "tests/exporter/test_own_hostile.py"
_OWN_WIRE = f"{_OWN_HOSTILE}::test_a_file_changed_by_a_stranger_is_refused_in_one_line"
_OWN_BUILT = f"{_OWN_HOSTILE}::test_a_canonical_file_with_a_hostile_graph_is_refused_in_one_line"
_GATE = "edge_stl/gate/_model.py"
_STRICT = "edge_stl/gate/_json.py"
_FILES = "edge_stl/durable/_files.py"
_RECORDS = "edge_stl/durable/_records.py"

MUTANTS = [
    Mutant(
        "a file is flushed", _FILES,
        "        _write_all(descriptor, data)\n        os.fsync(descriptor)\n",
        "        _write_all(descriptor, data)\n",
        f"{_POWER}::test_no_power_cut_loses_what_was_acknowledged", fast=True,
    ),
    Mutant(
        "its folder is flushed", _FILES,
        "    try:\n        os.fsync(descriptor)\n    except OSError as error:\n"
        "        if error.errno not in _NO_FOLDER_SYNC:",
        "    try:\n        pass\n    except OSError as error:\n"
        "        if error.errno not in _NO_FOLDER_SYNC:",
        f"{_POWER}::test_no_power_cut_loses_what_was_acknowledged",
    ),
    Mutant(
        "a file is written beside its place", _FILES,
        'temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")\n    try:\n        remove_',
        'temporary = path if keep is None else path.with_name(f".{path.name}.{os.getpid()}.tmp")\n'
        "    try:\n        remove_",
        _CRASH,
    ),
    Mutant(
        "half-written files of killed processes are removed", _FILES,
        "        remove_leftovers(path)\n", "", _CRASH,
    ),
    Mutant(
        "half a checkpoint of a finished branch is removed", "device_agent/checkpoint.py",
        "        remove_leftovers(folder / _FILE)", "        pass", _LEFT,
    ),
    Mutant(
        "there are two generations again after one was lost", "device_agent/checkpoint.py",
        "        write_record(folder / _FILE, body)\n    return left",
        "        pass\n    return left", _LEFT,
    ),
    Mutant(
        "SIGTERM before anything was begun is answered", "edge_stl/cli/_app.py",
        "        if handler is not signal.SIG_IGN:  # a command in",
        "        if handler is not signal.SIG_IGN and number == signal.SIGINT:  # a command in",
        "tests/crash/test_kill.py::test_sigterm_before_anything_was_begun_is_one_line_and_exit_"
        "code_30",
    ),
    Mutant(
        "links are not followed", _FILES,
        "_PRIVATE = os.O_CLOEXEC | os.O_NOFOLLOW", "_PRIVATE = os.O_CLOEXEC",
        "tests/durable/test_links.py", fast=True,
    ),
    Mutant(
        "the digest of a record is checked", _RECORDS,
        "return body if hashlib.sha256(body).hexdigest().encode() == header[1] else None",
        "return body",
        f"{_DAMAGE}::test_a_damaged_checkpoint_goes_back_to_the_one_before_it_and_says_so",
    ),
    Mutant(
        "the generation before is kept", _RECORDS,
        "keep = previous_of(path) if _proved(path) is not None else None", "keep = None", _DAMAGE,
    ),
    Mutant(
        "a damaged generation does not take the place of a whole one", _RECORDS,
        "keep = previous_of(path) if _proved(path) is not None else None",
        "keep = previous_of(path) if os.path.lexists(path) else None", _POWER,
    ),
    Mutant(
        "the generation before is read", _RECORDS,
        "    earlier = _proved(previous)\n", "    earlier = None\n", _DAMAGE,
    ),
    Mutant(
        "the cached pixels are proved", "device_agent/pixels.py",
        "        self._prove(wanted, flat)\n", "",
        f"{_DAMAGE}::test_damaged_pixels_are_never_trained_on_and_that_is_said",
    ),
    Mutant(
        "the digests of the cached pixels are proved", "device_agent/_cache_digest.py",
        "if len(data) == size and hashlib.sha256(data).hexdigest() == sha256 else None",
        "if len(data) == size else None",
        f"{_CACHE}::test_a_damaged_cache_is_built_again",
    ),
    Mutant(
        "damage in the middle of a run is mended once", "device_agent/_mending.py",
        "            if self._mended:\n                raise\n", "            raise\n", _MENDING,
    ),
    Mutant(
        "a disk that damages two caches is not given a third", "device_agent/_mending.py",
        "            if self._mended:\n                raise\n", "            pass\n", _MENDING,
    ),
    Mutant(
        "what was learned belongs to the pixels it was learned from", "device_agent/job.py",
        'digest = f"{images.digest} {pixels.digest}"', "digest = images.digest", _MENDING,
    ),
    Mutant(
        "a finished build is taken up without its record", "device_agent/_cache_files.py",
        "            if is_regular(path) and not os.path.lexists(part):\n",
        "            if False:\n", _CACHE,
    ),
    Mutant(
        "half a cache is proved before it is gone on with", "device_agent/_cache_build.py",
        "if digests is not None and end_holds(self.files.pixels_part, row_bytes, digests):",
        "if digests is not None:",
        f"{_CACHE}::test_half_a_cache_is_proved_at_its_end_alone",
    ),
    Mutant(
        "free space is asked for before it is used", "device_agent/_cache_build.py",
        "        if free < needed:\n", "        if free < 0:\n", _CACHE,
    ),
    Mutant(
        "the record of a build is removed with it", "device_agent/_cache_files.py",
        "        discard_record(self.record_part)\n", "        pass\n", _LEFT,
    ),
    Mutant(
        "the work folder is locked", "edge_stl/durable/_lock.py",
        "                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "                pass\n", f"{_WORK}::test_one_agent_at_a_time", fast=True,
    ),
    Mutant(
        "the lock is no link to somewhere else", "edge_stl/durable/_lock.py",
        "os.O_CREAT | os.O_NOFOLLOW |", "os.O_CREAT |", _TWO,
    ),
    Mutant(
        "the folder remembers whose it is", "device_agent/work.py",
        "if box is not None and remembered is not None and box != remembered:", "if False:", _WORK,
    ),
    Mutant(
        "out and work are never inside each other", "device_agent/work.py",
        "    if a == b or a in b.parents or b in a.parents:\n", "    if a == b:\n", _WORK,
    ),
    Mutant(
        "a checkpoint belongs to its run", "device_agent/checkpoint.py",
        '        if meta["key"] != key:\n', "        if False:\n", _JOB,
    ),
    Mutant(
        "other threads and versions are told", "device_agent/_one_branch.py",
        "    if earlier is not None and not done:\n", "    if False:\n", _RESUME,
    ),
    Mutant(
        "training goes on at the step it was at", "edge_stl/branch/_trainer.py",
        '            self.steps_done = int(tensors["steps_done"])\n',
        '            self.steps_done = max(0, int(tensors["steps_done"]) - 1)\n', _JOB,
    ),
    Mutant(
        "the order of the images depends on the epoch alone", "edge_stl/branch/_minibatches.py",
        "np.random.default_rng([self._seed, 2, epoch])", "np.random.default_rng()",
        f"{_CRASH}::test_a_hundred_deaths_at_calls_that_change_the_disk_leave_no_trace",
    ),
    Mutant(
        "the moments of the optimizer are kept", "edge_stl/branch/_trainer.py",
        '            state["state"] = moments\n', '            state["state"] = {}\n', _JOB,
    ),
    Mutant(
        "a loss that is not finite ends the training", "edge_stl/branch/_trainer.py",
        "        if not math.isfinite(value):\n", "        if False:\n",
        "tests/branch/test_trainer.py",
    ),
    Mutant(
        "a request to stop is followed by a checkpoint", "device_agent/_steps.py",
        "            save()\n            raise Interrupted(\n"
        '                f"stopped in branch {name} after',
        "            raise Interrupted(\n"
        '                f"stopped in branch {name} after', _JOB,
    ),
    Mutant(
        "published counts keep the floor of the plan", "edge_stl/branch/_minibatches.py",
        "        floor = self._plan.privacy.min_count\n", "        floor = 0\n",
        f"{_JOB}::test_published_counts_keep_the_plans_floor",
    ),
    Mutant(
        "checkpoints do not follow the clock on the wall", "device_agent/_save_clock.py",
        "return time.monotonic() - self._last > self._wait",
        "return time.time() - self._last > self._wait", _CLOCK,
    ),
    Mutant(
        "the first checkpoint comes early", "device_agent/_save_clock.py",
        "_FIRST = 2.0", "_FIRST = 20.0", _RESUME,
    ),
    Mutant(
        "who asks before anything was begun does not wait", "device_agent/stop.py",
        "        if insists or self._at_once:\n", "        if insists:\n", _RESUME,
    ),
    Mutant(
        "a signature is verified", "edge_stl/trust/_verdict.py",
        "if not sealed.proved_by(owner.key):", "if False:",
        "tests/trust/test_envelope.py",
    ),
    Mutant(
        "a file is the one that was signed", "edge_stl/trust/_verdict.py",
        "if not statement.holds_for(data):", "if False:",
        "tests/trust/test_envelope.py",
    ),
    Mutant(
        "a signature is of the type that is wanted", "edge_stl/trust/_verdict.py",
        "if artefact is None or wanted not in (None, artefact):", "if artefact is None:",
        "tests/trust/test_envelope.py",
    ),
    Mutant(
        "an old file is not taken again", "edge_stl/trust/_seen.py",
        "if statement.counter < mark.counter:", "if False:",
        "tests/trust/test_verdicts.py",
    ),
    Mutant(
        "a revoked key signs nothing", "edge_stl/trust/_verdict.py",
        "if not owner.revoked:", "if True:",
        "tests/trust/test_verdicts.py",
    ),
    Mutant(
        "a box signs for itself alone", "edge_stl/trust/_verdict.py",
        "statement.box != owner.id:", "False:",
        "tests/trust/test_verdicts.py",
    ),
    Mutant(
        "a number is on the disk before it is told", "edge_stl/trust/_counter.py",
        "            self._write(_Given(counter=number, last=given.last | mine))\n", "",
        "tests/trust/test_numbers.py",
    ),
    Mutant(
        "a file from outside is no link", "edge_stl/durable/_once.py",
        '_NO_LINK = getattr(os, "O_NOFOLLOW", 0)', "_NO_LINK = 0",
        "tests/durable/test_once.py",
    ),
    Mutant(
        "a file from outside has a size it may have", "edge_stl/durable/_once.py",
        "if before.st_size > most:", "if before.st_size > 10**12 + most:",
        "tests/durable/test_once.py::test_what_is_no_plain_file_is_refused",
    ),
    Mutant(
        "a private key is for its user alone", "edge_stl/trust/_keys.py",
        "if copied.mode & _OTHERS:", "if False:",
        "tests/trust/test_keys.py",
    ),
    Mutant(
        "fields are counted before they are built", _GATE,
        "if outline.fields > _MOST_FIELDS:", "if False:", _BOMB,
    ),
    Mutant(
        "graphs inside each other have an end", _GATE, "if depth > _DEEPEST:", "if False:", _BOMB,
    ),
    Mutant(
        "metadata entries have an end", _GATE,
        "if len(self.outline.metadata) > _MOST_ENTRIES:", "if False:", _BOMB,
    ),
    Mutant(
        "texts have an end", _GATE, "if b - a > _LONGEST_TEXT:", "if False:", _BOMB,
    ),
    Mutant(
        "names are text", _GATE,
        "            raise Unreadable from None", '            return ""', _BOMB,
    ),
    Mutant(
        "packed numbers are counted", _GATE,
        "if self.outline._typed > _MOST_TYPED:", "if False:", _BOMB,
    ),
    Mutant(
        "subgraphs belong to an If", _GATE,
        'if kind == "node" and self._bodies > bodies and operator != "If":', "if False:", _BOMB,
    ),
    Mutant(
        "what is foreign is refused", "exporter/read.py",
        "    if foreign:\n", "    if False:\n", _BOMB,
    ),
    Mutant(
        "prediction refuses what is foreign", "edge_stl/predict/_ensemble.py",
        "    if outline.foreign:\n", "    if False:\n",
        f"{_MODELS}::test_prediction_refuses_a_graph_that_is_none_of_ours", fast=True,
    ),
    Mutant(
        "a file is what its numbers rebuild to", "exporter/read.py",
        "if build_branch(manifest, plan, parameters, own) != data:", "if False:",
        "tests/exporter/test_refusals.py",
    ),
    Mutant(
        "strangers are judged in a child", "exporter/verify.py",
        "            judge(data, path.name)\n", "            check_model(data, path.name)\n",
        _STRANGER,
    ),
    Mutant(
        "the child has limits", "exporter/_limited.py",
        "        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))\n", "",
        f"{_MODELS}::test_a_foreign_model_is_judged_in_a_child_that_can_be_stopped",
    ),
    Mutant(
        "a graph needs somebody who accepts it", "exporter/read.py",
        "    elif not graphs:\n", "    elif False:\n",
        f"{_OWN}::test_without_the_flag_every_such_file_is_refused_with_box_network_and_flag",
    ),
    Mutant(
        "an accepted graph is looked at in a child", "exporter/read.py",
        "    if file.own is not None:\n", "    if False:\n",
        f"{_OWN_BUILT}[doubles it 24 times]",
    ),
    Mutant(
        "a graph of an ensemble is looked at in a child", "exporter/merge.py",
        "    _need_fit(left, name=name)\n", "",
        f"{_OWN}::test_a_graph_of_an_ensemble_is_looked_at_in_the_child_before_it_runs",
    ),
    Mutant(
        "a test vector is computed in a child", "exporter/vector.py",
        "    if file.own is None:\n", "    if True:\n",
        f"{_OWN_HOSTILE}::test_the_test_vector_of_an_accepted_graph_is_not_computed_in_this_process",
    ),
    Mutant(
        "a graph has operators of a list", _GATE,
        "        if name not in GRAPH_OPERATORS:\n", "        if False:\n",
        f"{_OWN_WIRE}[Expand]",
    ),
    Mutant(
        "a graph has no operator of ours that is not on that list", "exporter/own.py",
        "    if node.domain or node.op_type not in GRAPH_OPERATORS:\n", "    if False:\n",
        f"{_OWN_WIRE}[TopK]",
    ),
    Mutant(
        "a graph has no cycle", "exporter/own.py",
        "                    if state.get(name) is False:\n", "                    if False:\n",
        f"{_OWN_WIRE}[cycle]",
    ),
    Mutant(
        "a graph has so many nodes", "exporter/own.py",
        "        if found > most:\n", "        if False:\n", f"{_OWN_BUILT}[2,001 nodes]",
    ),
    Mutant(
        "integers are few", "exporter/own.py",
        'or (dtype.kind == "i" and count > MOST_INTEGERS)', "",
        f"{_OWN_BUILT}[a table of integers]",
    ),
    Mutant(
        "an image costs so much", "exporter/own_shapes.py",
        "            if amount > most:\n", "            if False:\n",
        f"{_OWN_BUILT}[doubles it 24 times]",
    ),
    Mutant(
        "the batch stays in front", "exporter/own_shapes.py",
        "        elif not fits:\n", "        elif False:\n",
        f"{_OWN_BUILT}[batch in another place]",
    ),
    Mutant(
        "logits are finite", "exporter/plausible.py",
        "    if not np.isfinite(together).all() or not np.isfinite(apart).all():\n",
        "    if False:\n", f"{_OWN_BUILT}[NaN at run time]",
    ),
    Mutant(
        "an image is answered for itself", "exporter/plausible.py",
        "    if float(np.abs(together - apart).max()) > _SAME_ANSWER * largest:\n",
        "    if False:\n", f"{_OWN_BUILT}[looks at the other images]",
    ),
    Mutant(
        "an ensemble says that it has graphs", "exporter/split.py",
        '    if record.get("graphs", []) != graphs or (not graphs and "graphs" in record):\n',
        "    if False:\n",
        f"{_OWN}::test_an_ensemble_that_hides_its_graphs_or_has_others_is_damaged",
    ),
    Mutant(
        "prediction runs no graph that nobody told of", "edge_stl/predict/_ensemble.py",
        '    if operators and not record.get("graphs"):\n', "    if False:\n",
        f"{_OWN}::test_prediction_takes_such_operators_only_where_the_record_says_so",
    ),
    Mutant(
        "numbers are finite", "exporter/plausible.py",
        "    if not finite.all():\n", "    if False:\n", _NUMBER,
    ),
    Mutant(
        "numbers have a size", "exporter/plausible.py",
        "    if largest > LARGEST_NUMBER:\n", "    if False:\n", _NUMBER,
    ),
    Mutant(
        "numbers are not denormal", "exporter/plausible.py",
        "    if denormal:\n", "    if False:\n", _NUMBER,
    ),
    Mutant(
        "numbers are not all 0", "exporter/plausible.py",
        'if name.endswith("weight") and not largest:', "if False:", _NUMBER,
    ),
    Mutant(
        "tensors have the type and the bytes of their shape", "exporter/read.py",
        "        or len(tensor.raw_data) != 4 * count\n", "", _NUMBER,
    ),
    Mutant(
        "a plan does not ask for all the memory", "exporter/manifest.py",
        "too_costly(plan, branch.name) + ", "",
        f"{_MODELS}::test_a_plan_that_asks_for_all_the_memory_is_refused", fast=True,
    ),
    Mutant("JSON has a size", _STRICT, "if size > caps.size:", "if False:", _JSON),
    Mutant("JSON has a count", _STRICT, "        if count > most:\n", "        if False:\n", _JSON),
    Mutant("JSON has a depth", _STRICT, "    _need_shallow(text)\n", "", _JSON),
    Mutant("JSON keys stand once", _STRICT, "if len(found) < len(pairs):", "if False:", _JSON),
    Mutant("JSON has no NaN", _STRICT, "            parse_constant=_no_constant,\n", "", _JSON),
    Mutant("JSON integers are short", _STRICT, "if len(digits) > _DIGITS:", "if False:", _JSON),
    Mutant("JSON has one form", _STRICT, "if again != text:", "if False:", _JSON),
    *(Mutant(*row) for row in ROWS),
]  # fmt: skip
"""One for every defence; whoever builds another one adds a row."""


def verdict(mutant: Mutant) -> str:
    """Take a defence out of a copy of the tree, run its test, and return how that went."""
    text = (ROOT / mutant.file).read_text()
    count = text.count(mutant.old)
    if count != 1:
        return f"its text stands in {mutant.file} {count} times; expected 1. Mend the row"
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        for name in TREE:
            source = ROOT / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            copy(source, tree / name)
        (tree / mutant.file).write_text(text.replace(mutant.old, mutant.new))
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "-q", mutant.test],
                cwd=tree,
                env={**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"},
                capture_output=True,
                text=True,
                check=False,
                timeout=_LIMIT,
            )
        except subprocess.TimeoutExpired:
            return "killed"
    # gloo may abort a process at its end, where a failed test left boxes that talk
    aborted = done.returncode == -signal.SIGABRT and "1 failed" in done.stdout
    if done.returncode == _FAILED or aborted:
        return "killed"
    return f"{mutant.test} ended with {done.returncode}: {' '.join(done.stdout.split()[-12:])}"


def console() -> int:
    parser = argparse.ArgumentParser(description="Take out every defence once.")
    parser.add_argument("--only", default="", help="those with this word in their name")
    parser.add_argument("--fast", action="store_true", help="a few that take seconds")
    given = parser.parse_args()
    rows = [m for m in MUTANTS if given.only in m.name and (m.fast or not given.fast)]
    if not rows:
        parser.error(f"--only {given.only}: no defence has that in its name")
    with ThreadPoolExecutor(1 if given.fast else 2) as pool:
        verdicts = pool.map(verdict, rows)
        found = []
        for mutant, said in zip(rows, verdicts, strict=True):
            found.append(said)
            print(f"{mutant.name}: {said}", flush=True)  # noqa: T201
    killed = found.count("killed")
    print(f"killed {killed}/{len(rows)}")  # noqa: T201
    return 0 if killed == len(rows) else 1


if __name__ == "__main__":
    sys.exit(console())
