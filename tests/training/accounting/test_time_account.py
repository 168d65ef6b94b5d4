"""The account of a run's wall-clock time, over starts that end well, badly, or not at all."""

import json
import random
from dataclasses import asdict, replace

import pytest

from ptft_jax.training.accounting.heartbeat import Beat
from ptft_jax.training.accounting.time_account import account, end_of, read_events, totals

NOW = 1_700_000_000.0


class Run:
    """Events of a run whose clock goes on only when it is told to."""

    def __init__(self):
        self.now = NOW
        self.events = []

    def start(self, took=0.0):
        """A start of which so many seconds have gone by when it says its first event."""
        began, self.now = self.now, self.now + took
        who = (0, 1, "node", 1)
        self.state = Beat(self.now, began, "starting", began, None, 100, 0.0, None, *who)
        self.events.append(self.state)

    def says(self, seconds=0.0, **changes):
        """An event, after which so many seconds go by."""
        self.state = replace(self.state, time=self.now, **changes)
        self.events.append(self.state)
        self.now += seconds

    def train(self, first, last, save_every=10):
        """A second for each step, the first of which compiles, and half of one for each save."""
        self.says(activity="training", step=first)
        self.says(1.0, activity="compiling")
        step = first
        for until in [*range(first - first % save_every + save_every, last, save_every), last]:
            self.says(until - max(step, first + 1), activity="training", step=step)
            step = until
            if step % save_every == 0:
                self.says(0.5, activity="saving", step=step)
        self.says(activity="training", step=last)

    def seconds(self):
        """The totals, which are those of the whole time, and each start's of its own."""
        starts = account(self.events)
        seconds = totals(starts)
        wall = self.events[-1].time - NOW
        assert sum(seconds.values()) == pytest.approx(wall, abs=1e-5)
        assert all(value >= 0 for value in seconds.values())
        for start in starts:
            assert sum(start.seconds.values()) == pytest.approx(start.ended - start.began, abs=1e-5)
        return {kind: round(value, 3) for kind, value in seconds.items() if value}


def test_each_second_is_counted_once():
    """Time belongs to what the event before says; what data was waited for is taken out of it."""
    run = Run()
    run.start(took=3.0)
    run.says(2.0, activity="restoring")
    run.says(1.0, activity="starting")
    run.says(activity="training", step=0)
    run.says(5.0, activity="compiling")
    run.says(10.0, activity="training")
    run.says(3.0, activity="evaluating", step=7, waited=4.0)
    run.says(1.0, activity="training")
    run.says(code=0, waited=9.0)  # longer than there was
    assert run.seconds() == {
        "training": 6.0,
        "data_wait": 5.0,
        "starting": 4.0,
        "restoring": 2.0,
        "compiling": 5.0,
        "evaluating": 3.0,
    }
    (only,) = account(run.events)
    assert (only.last.code, only.last_step, only.lost_steps) == (0, 7, 0)
    assert only.steps_per_second == pytest.approx(7 / 14)


def test_steps_made_again_are_lost():
    """A kill at step 27 and a resume at 20 lose the training of seven steps, and nothing else."""
    run = Run()
    run.start(took=4.0)
    run.train(0, 27)
    run.now += 60.0
    run.start(took=4.0)
    run.train(20, 35)
    run.says(code=75)
    assert run.seconds() == {
        "training": 19.0 + 14.0,  # the first step of each start compiles
        "lost": 7.0,
        "starting": 8.0,
        "compiling": 2.0,
        "saving": 1.5,
        "down": 60.0,
    }
    one, two = account(run.events)
    assert (end_of(one.last.code), one.last_step, one.lost_steps) == ("killed", 27, 7)
    assert (end_of(two.last.code), two.last_step, two.lost_steps) == ("SIGTERM (75)", 35, 0)


def test_an_older_checkpoint_loses_steps_of_several_starts():
    """A damaged last checkpoint, or a rewind, goes back behind the start that was killed."""
    run = Run()
    for first, last in ((0, 30), (30, 55), (10, 12)):
        run.start()
        run.train(first, last)
    assert [start.lost_steps for start in account(run.events)] == [20, 25, 0]
    assert run.seconds()["lost"] == 20 + 24
    # And without any checkpoint everything is made again.
    run.start()
    run.train(0, 5)
    assert [start.lost_steps for start in account(run.events)] == [30, 25, 2, 0]
    assert run.seconds()["training"] == 4.0


def test_random_histories_add_up():
    """Any order of activities, kills, stops and resumes: the kinds add up to the wall clock."""
    rng = random.Random(0)
    run, saved = Run(), 0
    for number in range(60):
        run.start(took=rng.random())
        run.says(rng.random())
        step, waited = saved, 0.0
        for _ in range(rng.randrange(12)):
            run.says(rng.random(), activity="training", step=step, waited=waited)
            step, waited = step + rng.randrange(4), waited + rng.random()
            activity = rng.choice(["evaluating", "saving", "compiling"])
            run.says(rng.random(), activity=activity, step=step, waited=waited)
            saved = step if activity == "saving" and rng.random() < 0.5 else saved
        run.says(code=rng.choice([None, 0, 65, 70, 75, 76, 130]))
        run.seconds()
        assert len(account(run.events)) == number + 1
        run.now += rng.random() * 5
    assert run.seconds()["lost"] > 0


def test_the_clock_of_another_host_is_behind():
    """No time is counted twice, and none is negative."""
    run = Run()
    run.start()
    run.says(100.0, activity="training", step=0)
    run.says(code=75)
    end, run.now = run.now, run.now - 500.0
    run.start(took=5.0)
    run.says(600.0, activity="training", step=0)
    run.says(code=0)
    assert sum(run.seconds().values()) == pytest.approx(run.now - NOW)
    assert account(run.events)[1].began == end


def test_lines_that_are_no_events(tmp_path):
    """A kill or a power cut may cut a line off anywhere; the others are the account."""
    assert read_events(tmp_path) == []
    run = Run()
    run.start()
    run.says(activity="training", step=0)
    good = [json.dumps(asdict(beat)) for beat in run.events]
    bad = ["", "[]", "{}", "\0\0\0", good[0][:-20], good[0].replace('"step"', '"stop"')]
    bad += [good[0].replace("starting", "pausing"), good[0].replace('"node"', '"\\u001b[2J"')]
    bad += [good[0].replace('"step": null', '"step": "0"')]
    (tmp_path / "events.jsonl").write_text("\n".join([good[0], *bad, good[1], good[1][:30]]))
    assert read_events(tmp_path) == run.events
