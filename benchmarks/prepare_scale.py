"""Shows that the memory of `ptft prepare` does not grow with the corpus: 0.3 GB beside 3 GB.

    python benchmarks/prepare_scale.py --text='TEXT/*.txt.xz' --work_dir=WORK --workers=2

Makes two inputs of --gigabytes each, runs `ptft prepare` on them with a learned vocabulary, and
prints the time and the peak of resident memory of every process. Exit code 1 if a process takes
more than --limit_mb, or if the peaks of the two runs differ by more than 10 %.

The inputs repeat the documents of the text, with this varied in every repetition: the order of the
documents; the order of the paragraphs of each; one word in ten is another word of its document;
one word in two hundred is made new by a random ending, so that the number of different words goes
on growing as in real text. Linux only (peaks are read from /proc).
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

FILE_BYTES = 100_000_000
OTHER_WORD, NEW_WORD = 0.1, 0.005


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--text", required=True, help="files or patterns, as for ptft prepare")
    parser.add_argument("--work_dir", type=Path, required=True, help="for inputs and corpora")
    parser.add_argument("--gigabytes", type=float, nargs=2, default=(0.3, 3.0))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--limit_mb", type=float, default=700.0)
    parser.add_argument("--set", action="append", default=[], help="--set=KEY=VALUE of the config")
    options = parser.parse_args()
    documents = list(read_documents(options.text.split(",")))
    peaks = []
    for gigabytes in options.gigabytes:
        folder = options.work_dir / f"{gigabytes:g}GB"
        size = write_inputs(documents, folder, gigabytes * 1e9)
        began = time.monotonic()
        peak = run(folder, options)
        seconds = time.monotonic() - began
        peaks.append(peak)
        print(f"{size / 1e9:.2f} GB in {seconds:.0f} s ({size / 1e6 / seconds:.1f} MB/s)")
        for name, megabytes in peak.items():
            print(f"    {name:<10} peak {megabytes:6.0f} MB")
    good = True
    for name in ("command", "worker 1") if options.workers > 1 else ("command",):
        small, large = (peak[name] for peak in peaks)  # worker 1 is the largest
        change = large / small - 1
        print(f"{name}: {change:+.1%} from {small:.0f} MB")
        good &= abs(change) <= 0.1 and max(small, large) <= options.limit_mb
    print("memory is bounded" if good else "NOT bounded")
    return 0 if good else 1


def read_documents(patterns: list[str]) -> Iterator[list[str]]:
    from ptft_jax.data.text.sources import open_sources

    for source in open_sources(patterns, "text"):
        for part in source.parts:
            for document in part.read():
                yield list(document.lines)


def write_inputs(documents: list[list[str]], folder: Path, size: float) -> int:
    """Writes files of about FILE_BYTES until `size` is reached; returns how much there is."""
    folder.mkdir(parents=True, exist_ok=True)
    written = repetition = 0
    while written < size:
        rng = np.random.default_rng(repetition)
        repetition += 1
        for number in rng.permutation(len(documents)):
            path = folder / f"text-{written // FILE_BYTES:04d}.txt"
            with path.open("ab" if path.exists() else "wb") as file:
                if file.tell() and written == 0:
                    raise SystemExit(f"{folder} holds files of an earlier run; remove it")
                written += file.write(varied(documents[number], rng).encode())
            if written >= size:
                break
    return written


def varied(lines: list[str], rng: np.random.Generator) -> str:
    """A document with its paragraphs in another order and some other words."""
    lines = [lines[index] for index in rng.permutation(len(lines))]
    words = [line.split(" ") for line in lines]
    every = [word for line in words for word in line]
    dice = rng.random(len(every))
    drawn = rng.integers(0, len(every), len(every))
    at = 0
    for line in words:
        for place in range(len(line)):
            if dice[at] < NEW_WORD:
                line[place] = f"{line[place].lower()}{syllables(int(drawn[at]))}"
            elif dice[at] < NEW_WORD + OTHER_WORD:
                line[place] = every[drawn[at]]
            at += 1
    return "\n".join(map(" ".join, words)) + "\n\n"


def syllables(number: int) -> str:
    """A made-up ending."""
    ending = ""
    while number:
        number, digit = divmod(number, 50)
        ending += "bdfgklmnrs"[digit // 5] + "aeiou"[digit % 5]
    return ending


def run(folder: Path, options: argparse.Namespace) -> dict[str, float]:
    """Prepares a corpus and returns the peak memory of each process in MB."""
    out_dir = folder / "corpus"
    command = [sys.executable, "-m", "ptft_jax", "prepare", "--config=configs/data/text.py"]
    command += [f"--config.inputs={folder.absolute()}/*.txt", f"--out_dir={out_dir.absolute()}"]
    command += [f"--config.workers={options.workers}"]
    command += [f"--config.{setting}" for setting in options.set]
    peaks: dict[int, float] = {}
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            for pid in [process.pid, *workers_of(process.pid)]:
                peaks[pid] = max(peaks.get(pid, 0.0), peak_of(pid))
            time.sleep(0.1)
    if process.returncode:
        raise SystemExit(f"ptft prepare ended with {process.returncode}")
    main_process = peaks.pop(process.pid)
    # Those that only start the others stay small.
    workers = sorted((peak for peak in peaks.values() if peak > 30), reverse=True)
    return {"command": main_process} | {
        f"worker {number + 1}": peak for number, peak in enumerate(workers)
    }


def workers_of(parent: int) -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            status = path.read_text()
        except OSError:
            continue
        if int(status.rpartition(")")[2].split()[1]) == parent:
            found.append(int(path.parent.name))
    return found


def peak_of(pid: int) -> float:
    """The peak of the resident memory so far, in MB; 0 when the process has ended."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    except OSError:
        pass
    return 0.0


if __name__ == "__main__":
    sys.exit(main())
