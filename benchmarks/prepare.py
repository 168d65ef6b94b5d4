"""The speed of `ptft prepare` beside that of the bare `tokenizers` library, on the same cores.

    python benchmarks/prepare.py --text='TEXT/*.txt.xz' --vocab=vocab.txt --workers=2

Bare: `Tokenizer.encode_batch` over the lines of the text, which lie in memory, in batches of 1,000,
with as many threads as there are workers. Ours: the whole command from files to a finished corpus,
without learning the vocabulary: reading twice, splitting into sentences, encoding, writing,
checksums. Both take turns, each time in a new process, and the same text: the first --megabytes
of it, written to a plain file first. Give both the same cores (taskset -c 0,1 for two workers).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

BATCH_LINES = 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--text", required=True, help="files or patterns, as for ptft prepare")
    parser.add_argument("--vocab", required=True, help="vocab.txt or tokenizer folder")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--megabytes", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--bare", metavar="FILE", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.bare:
        print(bare_seconds(Path(options.bare), options.vocab))
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "text.txt"
        size = write_text(options.text.split(","), file, options.megabytes) / 1e6
        print(
            f"{size:.1f} MB, {options.workers} worker(s), cores {sorted(os.sched_getaffinity(0))}"
        )
        speeds: dict[str, list[float]] = {"tokenizers": [], "ptft prepare": []}
        for _ in range(options.rounds):
            speeds["tokenizers"].append(size / run_bare(file, options))
            speeds["ptft prepare"].append(size / run_ours(file, Path(folder), options))
    for name, found in speeds.items():
        values = "  ".join(f"{speed:6.2f}" for speed in found)
        print(f"{name:<14}{values}   mean {sum(found) / len(found):6.2f} MB/s")
    ratio = sum(speeds["ptft prepare"]) / sum(speeds["tokenizers"])
    print(f"ptft prepare runs at {ratio:.0%} of the speed of the bare encode_batch")


def write_text(patterns: list[str], file: Path, megabytes: float) -> int:
    """Writes the first documents of the text to a file; returns its size in bytes."""
    from ptft_jax.data.text.sources import open_sources

    size = 0
    with file.open("wb") as out:
        for source in open_sources(patterns, "text"):
            for part in source.parts:
                for document in part.read():
                    size += out.write("\n".join((*document.lines, "", "")).encode())
                    if size >= megabytes * 1e6:
                        return size
    return size


def run_bare(file: Path, options: argparse.Namespace) -> float:
    """Returns the seconds that the bare library takes."""
    threads = {"TOKENIZERS_PARALLELISM": "true", "RAYON_NUM_THREADS": str(options.workers)}
    command = [sys.executable, __file__, f"--bare={file}", "--text=-", f"--vocab={options.vocab}"]
    done = subprocess.run(
        command, env=os.environ | threads, check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def bare_seconds(file: Path, vocab: str) -> float:
    from tokenizers import Tokenizer

    from ptft_jax.data.tokenizer.tokenizer import TextTokenizer

    tokenizer = Tokenizer.from_str(TextTokenizer.load(vocab).json)
    lines = [line for line in file.read_text("utf-8").split("\n") if line]
    tokenizer.encode_batch(lines[:BATCH_LINES], add_special_tokens=False)  # starts the threads
    began = time.perf_counter()
    for start in range(0, len(lines), BATCH_LINES):
        tokenizer.encode_batch(lines[start : start + BATCH_LINES], add_special_tokens=False)
    return time.perf_counter() - began


def run_ours(file: Path, folder: Path, options: argparse.Namespace) -> float:
    """Returns the seconds from the start of the command to its end."""
    out_dir = folder / f"corpus-{time.monotonic_ns()}"
    command = [sys.executable, "-m", "ptft_jax", "prepare", "--config=configs/data/text.py"]
    command += [f"--config.inputs={file}", f"--config.vocab={Path(options.vocab).absolute()}"]
    command += [f"--config.workers={options.workers}", f"--out_dir={out_dir}"]
    began = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
