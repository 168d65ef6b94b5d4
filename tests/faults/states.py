"""Scenarios 6 to 8: what must not get into a checkpoint, and what must not come out of one."""

import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
from command_line import write_corpus
from faults.jobs import Job, Result, flags_of, ids, lines, losses, numbers, whole_steps

from ptft_jax.cli import main as ptft
from ptft_jax.runs.folder import open_run


def full_disk(place: Path, kilobytes: int = 1800, goes_on: bool = True) -> Result:
    """A disk fills up while two processes save: both end with 74, and the run goes on with room."""
    result = Result("a full disk, two processes", tries=1)
    disk = place / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(disk)]
    subprocess.run(mount, check=True, capture_output=True)
    try:
        folder = disk / "run"
        settings: dict[str, Any] = {"steps": 60, "eval_every": 0, "checkpoint_every": 4}
        flags = flags_of(place, folder, **settings, keep_last=50)
        job = Job(place, flags, 2)
        codes, _ = job.ends(120)
        job.kill()
        result.expect(codes == {0: 74, 1: 74}, f"codes {codes}\n{job.everything()}")
        whole = whole_steps(folder)
        numbered = {int(p.name) for p in (folder / "checkpoints").iterdir() if p.name.isdecimal()}
        result.expect(bool(whole) and whole.keys() == numbered, f"{numbered}, whole: {set(whole)}")
        result.figures["whole checkpoints left"] = str(len(whole))
        verified = ptft(["ckpt", "verify", f"--run_dir={folder}", "--checkpoint=all"])
        result.expect(verified == 0, "ptft ckpt verify finds damage")
        if not goes_on:
            return result
        subprocess.run(["mount", "-o", "remount,size=50m", str(disk)], check=True)
        Job(place, flags, 2).succeed()
        reference = place / "disk-whole"
        Job(place, flags_of(place, reference, **settings), 2).succeed()
        result.expect(numbers(folder) == numbers(reference), "other numbers after going on")
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
    return result


def params(run_dir: Path, step: int) -> dict[str, np.ndarray]:
    """Returns the parameters of a checkpoint by path."""
    flat: dict[str, np.ndarray] = {}

    def walk(tree: Any, path: str) -> None:
        if isinstance(tree, dict):
            for name, child in tree.items():
                walk(child, f"{path}/{name}")
        else:
            flat[path] = np.asarray(tree)

    walk(open_run(run_dir, str(step)).params, "")
    return flat


def equal(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return a.keys() == b.keys() and all(a[n].tobytes() == b[n].tobytes() for n in a)


def nonfinite(place: Path, values: tuple[str, ...]) -> Result:
    """Batches with NaN or infinite gradients leave no trace; too many of them end the run."""
    result = Result("gradients that are not finite")
    settings: dict[str, Any] = {"eval_every": 0, "checkpoint_every": 1, "keep_last": 50}
    for value in values:
        result.tries += 1
        folder = place / f"nonfinite-{value}"
        bad = [4, 5, 9]
        plan = {"poison": {"value": value, "batches": bad}}
        Job(place, flags_of(place, folder, **settings, steps=12), 2, plans=plan).succeed()
        logged = [line for line in lines(folder) if "split" not in line]
        counts = [(line["skipped"], line["skipped_in_row"]) for line in logged]
        expected = [(0, 0)] * 4 + [(1, 1), (2, 2), (2, 0), (2, 0), (2, 0), (3, 1), (3, 0), (3, 0)]
        result.expect(counts == expected, f"{value}: counted {counts}")
        states = {step: params(folder, step) for step in range(1, 13)}
        for step in range(2, 13):
            same = equal(states[step - 1], states[step])
            # The first update has a rate of 0, after which weights differ with each one.
            result.expect(same == (step - 1 in bad), f"{value}: step {step}: changed {not same}")
        finite = all(np.isfinite(a).all() for state in states.values() for a in state.values())
        result.expect(finite, f"{value}: a checkpoint holds what is not finite")

        result.tries += 1
        folder = place / f"diverged-{value}"
        plan = {"poison": {"value": value, "batches": list(range(5, 30))}}
        flags = flags_of(place, folder, **settings, steps=30, log_every=4)
        job = Job(place, flags, 2, plans=plan)
        codes = job.codes()
        result.expect(codes == [65, 65], f"{value}: codes {codes}\n{job.everything()}")
        saved = whole_steps(folder)
        # Ten in a row, from the sixth batch to the fifteenth; nothing is saved from there.
        result.expect(max(saved) < 15, f"{value}: saved {sorted(saved)}")
        result.expect(equal(params(folder, 5), params(folder, max(saved))), f"{value}: learnt on")
        result.expect("updates in a row" in job.said(), f"{value}: {job.said()[-500:]}")
    return result


def rewinding(place: Path) -> Result:
    """A rewind goes back, leaves K batches out, and replays the rest."""
    result = Result("rewind past a loss spike", tries=1)
    settings: dict[str, Any] = {"steps": 20, "eval_every": 0, "checkpoint_every": 4, "keep_last": 9}
    folder = place / "rewound"
    first, second = place / "rewound-ids-1", place / "rewound-ids-2"
    flags = flags_of(place, folder, **settings)
    Job(place, flags, plans={"record": str(first)}).succeed()
    before = losses(folder)
    (folder / "results.json").unlink()
    go_back = ["ckpt", "rewind", "--step=8", "--skip_batches=3"]
    result.expect(ptft([*go_back, f"--run_dir={folder}"]) == 0, "not rewound")
    job = Job(place, flags, plans={"record": str(second)}).succeed()
    asked, rows = ids(first), ids(second)
    result.expect("resuming at step 8" in job.said(), job.said()[-500:])
    # Step 9 is made of the batch that step 12 had before.
    wanted = {number: asked[number] for number in range(11, 20)}
    result.expect(
        {n: rows.get(n) for n in wanted} == wanted and min(rows) == 11, f"batches {sorted(rows)}"
    )
    after = losses(folder)
    result.expect(all(after[s] == before[s] for s in range(1, 9)), "the steps before have changed")
    result.expect(all(after[s] != before[s] for s in range(9, 21)), "nothing was left out")
    # A run whose data never had these batches learns the same from there on.
    without = place / "rewound-without"
    plan = {"leave_out": [8, 3]}
    Job(place, flags_of(place, without, **settings), plans=plan).succeed()
    result.expect(losses(without) == after, "not as if these batches had not been there")
    aside = [p.name for p in (folder / "checkpoints").glob("*.rewound-*")]
    result.expect({"12.rewound-1", "16.rewound-1", "20.rewound-1"} <= {*aside}, f"{aside}")
    # A run that is killed after the rewind replays the same.
    other = place / "rewound-other"
    Job(place, flags_of(place, other, **settings)).succeed()
    (other / "results.json").unlink()
    result.expect(ptft([*go_back, f"--run_dir={other}"]) == 0, "not rewound")
    job = Job(place, flags_of(place, other, **settings))
    later = other / "checkpoints" / "12" / "manifest.json"
    job.wait_until(lambda: "resuming" in job.said() and later.exists(), "step 12")
    job.kill()
    Job(place, flags_of(place, other, **settings)).succeed()
    result.expect(losses(other) == after, "a kill after the rewind changes the losses")
    return result


def wrong_restores(place: Path, only: tuple[str, ...] = ()) -> Result:
    """What a run cannot go on with is refused, and the message names the difference."""
    result = Result("wrong restores")
    folder = place / "right"
    settings: dict[str, Any] = {"steps": 8, "eval_every": 0, "checkpoint_every": 4}
    Job(place, flags_of(place, folder, **settings)).succeed()
    (folder / "results.json").unlink()
    other = place / "other"
    other.mkdir()
    write_corpus(other / "text.txt", 60, seed=5)
    (other / "text.txt").write_text((other / "text.txt").read_text().replace("river", "zebra"))
    flags = ["--config.vocab_size=200", "--config.dev_fraction=0.2", f"--out_dir={other}/data"]
    inputs = f"--config.inputs={other}/text.txt"
    assert ptft(["prepare", "--config=configs/data/text.py", inputs, *flags]) == 0
    allow = "--config_change=allow"
    cases: dict[str, tuple[int, dict[str, Any], list[str], list[str]]] = {
        "model size": (2, {"model.hidden_size": 64}, [allow], ["model.hidden_size: 32"]),
        "layers": (2, {"model.num_hidden_layers": 2}, [], ["model.num_hidden_layers"]),
        "optimizer": (2, {"optimizer.name": "lamb"}, [allow], ["config.optimizer.name: 'adamw'"]),
        "objective": (2, {"input_format": "full_sentences"}, [allow], ["model.heads", "pairs"]),
        "vocabulary": (2, {"data_dir": f"{other}/data"}, [allow], ["tokenizer: SHA-256"]),
        "learning rate": (2, {"optimizer.learning_rate": 0.5}, [], ["optimizer.learning_rate"]),
    }
    for name, (code, changes, more, words) in cases.items():
        if only and name not in only:
            continue
        result.tries += 1
        job = Job(place, flags_of(place, folder, **(settings | changes)), more=more)
        codes, said = job.codes(), job.said()
        result.expect(codes == [code], f"{name}: code {codes}: {said[-800:]}")
        for word in words:
            result.expect(word in said, f"{name}: does not name {word!r}: {said[-800:]}")
        result.expect("Traceback" not in said, f"{name}: {said[-800:]}")
    if not only:
        result.tries += 1
        shutil.move(folder / "tokenizer", place / "aside")
        job = Job(place, flags_of(place, folder, **settings))
        codes, said = job.codes(), job.said()
        refused = codes == [65] and "tokenizer is missing" in said
        result.expect(refused, f"without the run's tokenizer: code {codes}: {said[-800:]}")
    return result


def different_configs(place: Path, only: tuple[str, ...] = ()) -> Result:
    """Processes started with different settings refuse to train, soon after they have met."""
    result = Result("processes with different settings")
    cases = {
        "learning rate": (
            ["--config.optimizer.learning_rate=0.5"],
            "config.optimizer.learning_rate",
        ),
        "steps": (["--config.steps=9"], "config.steps: 8 at process 0"),
        "run folder": ([f"--run_dir={place}/elsewhere"], "run_dir"),
    }
    worst = 0.0
    for name, (own, word) in cases.items():
        if only and name not in only:
            continue
        result.tries += 1
        folder = place / f"differ-{result.tries}"
        job = Job(place, flags_of(place, folder, steps=8), 2, own={1: own})
        met = "process   host"
        until = time.monotonic() + 120
        while met not in job.said() and job.running() and time.monotonic() < until:
            time.sleep(0.01)
        codes, times = job.ends()
        job.kill()
        took = max(times.values(), default=99.0)
        worst = max(worst, took)
        result.expect(codes == {0: 2, 1: 2}, f"{name}: codes {codes}\n{job.everything()}")
        result.expect(took <= 5, f"{name}: {took:.1f} s after they met")
        result.expect(word in job.said(), f"{name}: {job.said()[-500:]}")
        result.expect("at process 1 (host" in job.said(), f"{name}: {job.said()[-500:]}")
        result.expect(not folder.exists(), f"{name}: {folder} was written")
    result.figures["refused after meeting"] = f"{worst:.1f} s"
    return result
