"""The loop trains when it is time, waits when it is not, and nothing that fails ends it."""

import datetime as dt
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agent.snapshot import read_snapshot
from edge_stl.errors import DataError, Interrupted, ResourceError, UsageError
from edge_stl.fleet._task import Ended
from edge_stl.images import identities
from edge_stl.service import parse_hours
from edge_stl.service._agent_run import GRACE, SILENCE
from edge_stl.service._looks import SETTLE


Bench = Any


def trained(bench: Bench, **changes: Any) -> Bench:
    """A bench whose first training is done."""
    bench.open(**changes)
    bench.until_started(1).succeeds()
    bench.turns(2)
    assert bench.watch.numbers.trainings == 1
    return bench


# -- when it trains -----------------------------------------------------------------------------


def test_the_first_training_starts_once_two_looks_agree(bench: Bench):
    bench.open()
    bench.turns(SETTLE - 1)
    assert bench.agents == []

    agent = bench.until_started(1, within=3)

    assert agent.task.arguments[:5] == (
        "train", str(bench.folder / "plan.toml"), str(bench.folder / "photos"), "-o",
        str(bench.folder / "outbox"),
    )  # fmt: skip
    words = agent.task.arguments
    assert words[words.index("--progress") + 1] == "json"
    assert "--json" in words
    wanted = read_snapshot(bench.folder / "work" / "watch.wanted")
    assert words[words.index("--only-images") + 1] == str(bench.folder / "work" / "watch.wanted")
    np.testing.assert_array_equal(wanted.images, identities(bench.folder / "photos"))


def test_the_next_training_waits_for_so_many_new_images(bench: Bench):
    trained(bench)
    for name in ("bus/2.png", "bus/3.png"):
        bench.photo(name)
    bench.turns(300)
    assert len(bench.agents) == 1
    assert bench.watch.numbers.new == 2

    bench.photo("bus/0.png", b"changed, which counts as new")
    bench.until_started(2, within=200)


def test_removed_images_alone_start_nothing(bench: Bench):
    trained(bench, every=1)
    (bench.folder / "photos" / "bus" / "0.png").unlink()
    bench.turns(300)

    assert len(bench.agents) == 1


def test_an_image_that_grows_from_look_to_look_is_never_trained_on_half(bench: Bench):
    growing = bench.photo("bus/growing.png", b"x")
    bench.open(every=1)
    data = b"x"

    def grow(seconds: float) -> None:
        nonlocal data
        for _ in range(round(seconds)):
            data += b"x"
            growing.write_bytes(data)
            bench.turns(1)

    grow(10)
    agent = bench.agents[0]
    wanted = read_snapshot(bench.folder / "work" / "watch.wanted")
    assert len(wanted.images) == 4, "the four others"
    agent.succeeds()
    grow(200)
    assert len(bench.agents) == 1, "it still grows"

    bench.until_started(2, within=200)
    assert len(read_snapshot(bench.folder / "work" / "watch.wanted").images) == 5


def test_a_wrong_clock_of_the_camera_changes_nothing(bench: Bench):
    for at, name in ((0, "bus/2.png"), (2**32, "bus/3.png"), (4e9, "car/2.png")):
        os.utime(bench.photo(name), (at, at))
    bench.open()

    bench.until_started(1, within=10)
    assert len(read_snapshot(bench.folder / "work" / "watch.wanted").images) == 7


def test_a_restart_trains_nothing_again_and_knows_what_is_new(bench: Bench):
    trained(bench).close()
    bench.open()
    bench.turns(200)
    assert len(bench.agents) == 1
    for name in ("bus/2.png", "bus/3.png", "car/2.png"):
        bench.photo(name)

    bench.until_started(2, within=200)


def test_a_training_that_was_stopped_goes_on_with_the_same_images_though_more_have_come(
    bench: Bench,
):
    bench.open()
    first = bench.until_started(1)
    before = read_snapshot(bench.folder / "work" / "watch.wanted").images
    bench.watch.requests.stops = 1
    bench.turns(2)
    assert first.stops == 1
    bench.close()
    bench.photo("car/9.png")

    bench.open()
    bench.until_started(2, within=10)

    after = read_snapshot(bench.folder / "work" / "watch.wanted").images
    np.testing.assert_array_equal(before, after)
    assert bench.told("training")[-1]["resumed"] is True


def test_other_options_are_another_training(bench: Bench):
    trained(bench).close()
    bench.open(options=("--epochs=2",))

    assert "--epochs=2" in bench.until_started(2, within=10).task.arguments


def test_other_limits_are_not(bench: Bench):
    trained(bench, limits=("--nice=5",)).close()
    assert "--nice=5" in bench.agents[0].task.arguments
    bench.open(limits=("--nice=7",))
    bench.turns(200)

    assert len(bench.agents) == 1


@pytest.mark.parametrize("name", ["watch.trained", "watch.wanted"])
def test_a_damaged_ledger_costs_one_training_and_no_more(bench: Bench, name: str):
    trained(bench).close()
    path = bench.folder / "work" / name
    path.write_bytes(path.read_bytes()[:-1])
    bench.open()
    bench.turns(10)

    assert len(bench.agents) == (2 if name == "watch.trained" else 1)


def test_a_long_look_is_followed_by_a_longer_pause(bench: Bench, monkeypatch: pytest.MonkeyPatch):
    trained(bench)
    looks = []

    def slow(folder: Path, *, told: Any) -> Any:  # noqa: ARG001
        looks.append(bench.clock.seconds)
        bench.clock.sleep(30)
        return identities(folder)

    monkeypatch.setattr("edge_stl.service._watch.identities", slow)
    bench.turns(2000)

    assert np.diff(looks).min() >= 600, "a twentieth of the time at most"


# -- allowed hours ------------------------------------------------------------------------------


def test_nothing_starts_outside_the_allowed_hours_and_all_goes_on_inside(bench: Bench):
    bench.open(hours=parse_hours("13-14"))
    bench.turns(1000)
    assert bench.agents == []
    assert bench.told("waiting")[-1]["reason"] == "hours"
    assert len(bench.told("waiting")) == 1, "said once"

    bench.until_started(1, within=3600)
    assert bench.clock.local_time().hour == 13


def test_the_end_of_the_allowed_hours_stops_with_a_checkpoint_until_the_next_window(bench: Bench):
    bench.clock.calendar = bench.clock.calendar.replace(hour=13, minute=59)
    bench.open(hours=parse_hours("13-14"))
    agent = bench.until_started(1, within=10)
    bench.turns(70)

    assert (agent.stops, agent.kills) == (1, 0)
    assert bench.told("paused")[-1]["reason"] == "hours"
    assert bench.watch.numbers.failures == 0
    bench.turns(600)
    assert len(bench.agents) == 1

    bench.clock.calendar += dt.timedelta(days=1, hours=-1)  # a jump of the calendar
    bench.until_started(2, within=3600)
    assert bench.told("training")[-1]["resumed"] is True


def test_a_clock_in_1970_is_told_and_stops_nothing(bench: Bench):
    bench.clock.calendar = bench.clock.calendar.replace(year=1970)
    bench.open()

    bench.until_started(1, within=10)
    assert [line["level"] for line in bench.told("clock")] == ["warning"]


# -- failures -----------------------------------------------------------------------------------


def test_the_pauses_after_failures_grow_to_an_hour_and_a_success_forgets_them(bench: Bench):
    bench.open(check_every=10.0)
    starts = []
    for attempt in range(1, 10):
        agent = bench.until_started(attempt, within=4000)
        starts.append(bench.clock.seconds)
        agent.ending = Ended(-9)
        bench.turns(0.5)
    minutes = np.diff(starts) / 60
    np.testing.assert_array_equal(np.floor(minutes), [1, 2, 4, 8, 16, 32, 60, 60])
    assert bench.watch.numbers.failures == 9
    assert "killed by signal 9" in bench.told("failed")[0]["message"]

    bench.until_started(10, within=4000).succeeds()
    bench.turns(1)
    for name in ("bus/2.png", "bus/3.png", "car/2.png"):
        bench.photo(name)
    bench.until_started(11, within=60).ending = Ended(1, "no space")
    bench.turns(1)
    assert bench.told("failed")[-1]["pause"] == 60


@pytest.mark.parametrize("code", [2, 10])
def test_what_is_refused_is_tried_again_when_the_images_change_and_not_before(
    bench: Bench, code: int
):
    bench.open()
    bench.until_started(1).ending = Ended(code, "photos/tram: not a class of the plan")
    bench.turns(20_000)

    assert len(bench.agents) == 1
    assert len(bench.told("failed")) == 1
    assert "photos/tram: not a class of the plan" in bench.told("failed")[0]["message"]
    bench.photo("bus/9.png")
    bench.until_started(2, within=200)
    assert len(read_snapshot(bench.folder / "work" / "watch.wanted").images) == 5


def test_what_is_refused_is_tried_again_when_the_plan_changes(bench: Bench):
    bench.open()
    bench.until_started(1).ending = Ended(10, "too small")
    bench.turns(300)
    bench.write_plan(epochs=7)

    bench.until_started(2, within=200)


def test_an_agent_that_says_nothing_for_long_is_killed_and_started_again(bench: Bench):
    bench.open()
    agent = bench.until_started(1)
    for _ in range(5):
        bench.turns(SILENCE - 60)
        agent.says(event="alive")
    assert agent.kills == 0
    bench.turns(SILENCE + 2)

    assert agent.kills == 1
    assert "it hangs" in bench.told("failed")[-1]["message"]
    bench.until_started(2, within=200)


def test_an_agent_that_does_not_stop_is_killed_after_a_while(bench: Bench):
    bench.open()
    agent = bench.until_started(1)
    agent.obeys = False
    bench.watch.requests.stops = 1
    bench.turns(GRACE - 2)
    assert (agent.stops, agent.kills) == (1, 0)
    bench.turns(4)

    assert agent.kills == 1
    assert bench.watch.over


def test_a_second_signal_does_not_wait_for_the_checkpoint(bench: Bench):
    bench.open()
    agent = bench.until_started(1)
    agent.obeys = False
    bench.watch.requests.stops = 1
    bench.turns(1)
    bench.watch.requests.stops = 2
    bench.turns(1)

    assert agent.kills == 1
    assert bench.watch.over


def test_a_folder_that_goes_away_is_told_once_and_looked_for_again(bench: Bench):
    trained(bench)
    photos = bench.folder / "photos"
    photos.rename(bench.folder / "unplugged")
    bench.turns(600)
    assert len(bench.told("blind")) == 1
    assert "is no folder" in bench.told("blind")[0]["message"]
    (bench.folder / "unplugged").rename(photos)
    for name in ("bus/2.png", "bus/3.png", "car/2.png"):
        bench.photo(name)

    bench.until_started(2, within=200)


def test_a_full_disk_when_the_ledger_is_written_is_a_failure_that_is_tried_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    bench.open()

    def full(*_: object) -> None:
        raise ResourceError("work/watch.wanted: cannot be written (No space left on device)")

    with monkeypatch.context() as patch:
        patch.setattr("edge_stl.service._looks.write_snapshot", full)
        bench.turns(30)
    assert bench.agents == []
    assert "No space left on device" in bench.told("failed")[0]["message"]

    bench.until_started(1, within=200)


def test_a_card_that_is_pulled_out_while_it_is_listed_ends_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    trained(bench)

    def pulled(*_: object, **__: object) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("edge_stl.service._watch.identities", pulled)
        bench.turns(300)
    assert [line["message"] for line in bench.told("blind")] == ["[Errno 5] Input/output error"]
    bench.photo("car/5.png")
    bench.turns(150)
    assert bench.watch.numbers.new == 1


def test_an_agent_whose_answer_is_lost_has_failed(bench: Bench):
    bench.open()
    agent = bench.until_started(1)

    def lost() -> None:
        raise ValueError("Expecting value: line 1 column 1 (char 0)")

    agent.poll = lost
    bench.turns(1)
    assert "its answer cannot be read" in bench.told("failed")[0]["message"]

    bench.until_started(2, within=200)


# -- the plan -----------------------------------------------------------------------------------


def test_another_plan_stops_the_training_and_starts_its_own_in_its_own_folder(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_STATE_HOME", str(bench.folder / "state"))
    bench.open(work=None)
    first = bench.until_started(1)
    old = bench.watch._place.work
    bench.write_plan(epochs=7)
    bench.turns(130)

    assert first.stops == 1
    second = bench.until_started(2, within=100)
    assert bench.watch._place.work != old
    assert str(bench.watch._place.work) in second.task.arguments
    assert bench.watch._place.box == "cam07"


def test_a_plan_that_is_half_copied_stops_nothing_and_one_that_stays_broken_is_told_once(
    bench: Bench,
):
    bench.open()
    agent = bench.until_started(1)
    whole = (bench.folder / "plan.toml").read_text()
    (bench.folder / "plan.toml").write_text(whole[:40])
    bench.turns(300)
    assert agent.stops == 0
    agent.succeeds()
    for name in ("bus/2.png", "bus/3.png", "car/2.png"):
        bench.photo(name)
    bench.turns(600)
    assert len(bench.agents) == 1
    assert [line["level"] for line in bench.told("plan")] == ["error"]

    (bench.folder / "plan.toml").write_text(whole)
    bench.until_started(2, within=200)


# -- signals and the end ------------------------------------------------------------------------


def test_sigterm_stops_with_a_checkpoint_and_says_that_it_goes_on(bench: Bench):
    bench.open()
    run = bench.watch
    run._began = lambda: None

    def sleep(seconds: float) -> None:
        bench.clock.seconds += seconds
        if bench.agents:
            os.kill(os.getpid(), signal.SIGTERM)

    bench.clock.sleep = sleep
    with pytest.raises(Interrupted, match="the same command goes on"):
        run.run()

    assert bench.agents[0].stops == 1
    assert bench.events()[-2:] == ["paused", "stopped"]


def test_sighup_looks_at_once(bench: Bench):
    trained(bench, check_every=86_400.0)
    for name in ("bus/2.png", "bus/3.png", "car/2.png"):
        bench.photo(name)
    bench.turns(60)
    assert len(bench.agents) == 1
    for _ in range(2):  # a look to see them, and one to see that they stayed
        bench.watch.requests.look = True
        bench.turns(SETTLE + 1)

    assert len(bench.agents) == 2


def test_two_looks_at_the_same_moment_are_one(bench: Bench):
    trained(bench, check_every=86_400.0)
    bench.turns(SETTLE + 1)
    for name in ("bus/2.png", "bus/3.png", "car/2.png"):
        bench.photo(name)
    for _ in range(4):
        bench.watch.requests.look = True
        bench.turns(0.5)

    assert len(bench.agents) == 1, "four looks in two seconds say nothing of a slow writer"


def test_a_second_service_for_one_work_folder_is_refused(bench: Bench):
    bench.open()
    with pytest.raises(ResourceError, match="another agent watch is working here"):
        bench.open()
    bench.close()
    bench.open()


def test_wrong_folders_are_told_at_the_start(bench: Bench):
    with pytest.raises(DataError, match="is no folder"):
        bench.open(images=bench.folder / "nowhere")
    bench.close()
    with pytest.raises(UsageError, match="one is inside the other"):
        bench.open(images=bench.folder / "photos", out=bench.folder / "work" / "out")
    with pytest.raises(UsageError, match="--box is needed"):
        bench.open(box=None, work=bench.folder / "other", out=bench.folder / "outbox")
    with pytest.raises(UsageError, match=r"plan\.toml"):
        bench.open(plan_file=bench.folder / "no-plan.toml")


# -- once ---------------------------------------------------------------------------------------


def test_once_trains_and_ends(bench: Bench):
    bench.open(once=True)
    bench.until_started(1).succeeds()
    bench.turns(5)

    assert bench.watch.over
    assert bench.watch.summary.trainings == 1


@pytest.mark.parametrize(
    ("ended", "kind", "sentence"),
    [
        (Ended(10, "too small"), 10, "box cam07: too small"),
        (Ended(-9), 20, "killed by signal 9"),
        (Ended(30, "stopped after 3 of 9 steps"), 30, "after 3 of 9 steps"),
    ],
)
def test_once_ends_as_its_training_did(bench: Bench, ended: Ended, kind: int, sentence: str):
    bench.open(once=True)
    bench.until_started(1).ending = ended
    bench.turns(5)

    assert bench.watch.over
    assert bench.watch._error.exit_code == kind
    assert sentence in str(bench.watch._error)


def test_once_does_nothing_where_nothing_is_due(bench: Bench):
    trained(bench).close()
    bench.open(once=True)
    bench.turns(20)

    assert bench.watch.over
    assert len(bench.agents) == 1
    assert bench.watch.summary.waits_for == "images"
    bench.close()
    bench.settings = replace(bench.settings, every=1)
    bench.photo("bus/7.png")
    bench.open(hours=parse_hours("1-2"))
    bench.turns(20)
    assert bench.watch.summary.waits_for == "hours"


# -- what it shows ------------------------------------------------------------------------------


def test_signs_of_life_come_while_the_loop_turns_and_from_a_long_look(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
):
    def slow(folder: Path, *, told: Any) -> Any:
        for _ in range(300):
            bench.clock.sleep(1)
            told()
        return identities(folder)

    monkeypatch.setattr("edge_stl.service._watch.identities", slow)
    bench.open()
    bench.turns(1000)

    times = bench.systemd.times("WATCHDOG=1")
    assert np.diff([1000.0, *times, bench.clock.seconds]).max() <= 60, "half of what is expected"
    assert bench.systemd.times("READY=1") == [1300.0], "after the first look, not before"


def test_a_loop_that_does_not_turn_gives_no_sign_of_life(bench: Bench):
    bench.open()
    bench.turns(30)
    before = len(bench.systemd.times("WATCHDOG=1"))
    bench.clock.sleep(500)  # nobody turns it

    assert len(bench.systemd.times("WATCHDOG=1")) == before
    assert bench.watch._face._notifier is bench.systemd


def test_without_a_watchdog_no_sign_of_life_is_sent(bench: Bench):
    bench.systemd.watchdog_seconds = None
    bench.open()
    bench.turns(100)

    assert bench.systemd.times("WATCHDOG=1") == []
    assert bench.systemd.times("STATUS=waiting") != [] or bench.agents


def test_the_metrics_tell_how_far_it_is(bench: Bench):
    file = bench.folder / "edge-stl.prom"
    bench.open(metrics_file=file)
    agent = bench.until_started(1)
    agent.says(event="decoding", done=1, total=4, rss=10**8)
    agent.says(event="training", branch="d1", done=3, total=9, epoch=1, loss=0.25, rss=123456)
    agent.heard("UserWarning: of some library")
    agent.heard('{"event": "training", "branch": 7}')
    bench.turns(20)
    text = file.read_text()
    assert 'edge_stl_steps_done{branch="d1"} 3\n' in text
    assert "edge_stl_resident_memory_bytes 123456\n" in text
    assert "edge_stl_training 1\n" in text

    agent.succeeds()
    bench.turns(2)
    text = file.read_text()
    assert "edge_stl_training 0\n" in text
    assert "edge_stl_trainings_total 1\n" in text
    assert 'edge_stl_images_left_out{reason="truncated"} 2\n' in text
    assert "edge_stl_last_success_timestamp_seconds 17" in text


def test_after_the_only_training_no_image_counts_as_new(bench: Bench):
    bench.open(once=True)
    agent = bench.until_started(1)
    assert bench.watch.numbers.new > 0
    agent.succeeds()
    bench.turns(1)
    assert bench.watch.over
    assert bench.watch.numbers.new == 0


def test_metrics_that_cannot_be_written_are_told_once_and_stop_nothing(bench: Bench):
    bench.open(metrics_file=bench.folder / "nowhere" / "m.prom")
    bench.until_started(1)
    bench.turns(100)

    assert len(bench.told("metrics")) == 1
    assert "cannot be written (No such file or directory)" in bench.told("metrics")[0]["message"]
