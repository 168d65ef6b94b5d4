"""Prepares a corpus again and again, each time killed at another moment and then started again.

    python killed_prepare.py SETTINGS.json FOLDER

A program of its own: it forks, which a process with the threads of JAX must not. Prints one JSON
object: how many moments there are, which were tried, and which of them gave another corpus.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import sys
from pathlib import Path

os.environ["TOKENIZERS_PARALLELISM"] = "false"

from lasting_calls import count_calls

from ptft_jax.data.corpus import making as preparation
from ptft_jax.data.corpus.prepare import prepare_corpus
from ptft_jax.data.corpus.settings import PrepareSettings
from ptft_jax.data.text import sources as inputs

# A commit after every block, and blocks of a few documents.
preparation.COMMIT_SECONDS = 0.0
inputs.BLOCK_CHARACTERS = 1500
TRIED = 36
# A killed process loses nothing that it has written, so the disk need not be waited for here.
os.fsync = lambda descriptor: None
CALLS = ("fsync", "replace", "unlink", "truncate")


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def prepare_in_child(settings: PrepareSettings, out_dir: Path, kill_at: int) -> int:
    """Prepares in a forked process that is killed before call `kill_at`; its exit status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    if kill_at:
        count_calls(CALLS, lambda call: call == kill_at and os.kill(os.getpid(), signal.SIGKILL))
    try:
        prepare_corpus(settings, out_dir)
    except BaseException as error:
        print(repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def lose_what_was_not_synced(work: Path, draw: random.Random) -> None:
    """Cuts files back to what the journal knows, or leaves rubbish after it, as a crash may."""
    journal = work / "journal.json"
    if not journal.exists():
        return
    for name, size in json.loads(journal.read_text())["sizes"].items():
        if not (work / name).exists():  # the corpus has taken its place already
            continue
        with (work / name).open("r+b") as file:
            if draw.random() < 0.5:
                file.truncate(size)
            else:
                file.seek(0, os.SEEK_END)
                file.write(b"\xff" * draw.randrange(50))


def main() -> None:
    settings = json.loads(Path(sys.argv[1]).read_text())
    settings = PrepareSettings(**{**settings, "inputs": tuple(settings["inputs"])})
    folder = Path(sys.argv[2])
    # How many moments there are: counted in a child, which writes them down at each.
    counter = folder / "calls"
    if os.fork() == 0:
        count_calls(CALLS, lambda call: counter.write_text(str(call)) and None)
        prepare_corpus(settings, folder / "reference")
        os._exit(0)
    os.wait()
    moments = int(counter.read_text())
    reference = digests(folder / "reference")
    draw = random.Random(0)
    # The last ones are those that publish the corpus.
    tried = sorted({*draw.sample(range(1, moments + 1), TRIED), moments - 1, moments})
    wrong = {}
    for kill_at in tried:
        out_dir = folder / f"killed-{kill_at}"
        status = prepare_in_child(settings, out_dir, kill_at)
        if not os.WIFSIGNALED(status):
            wrong[kill_at] = "was not killed"
            continue
        if out_dir.exists() and digests(out_dir) != reference:
            wrong[kill_at] = "left a corpus that is not complete"
        lose_what_was_not_synced(out_dir.parent / f".{out_dir.name}.partial", draw)
        if kill_at % 2:  # killed once more, soon after the start
            prepare_in_child(settings, out_dir, draw.randrange(1, 30))
        if prepare_in_child(settings, out_dir, 0) != 0:
            wrong[kill_at] = "did not go on"
        elif digests(out_dir) != reference:
            other = {name for name, _ in digests(out_dir).items() ^ reference.items()}
            wrong[kill_at] = f"gave another corpus: {', '.join(sorted(other))}"
        elif out_dir.parent.joinpath(f".{out_dir.name}.partial").exists():
            wrong[kill_at] = "left its work folder"
        shutil.rmtree(out_dir, ignore_errors=True)
    print(json.dumps({"moments": moments, "tried": tried, "wrong": wrong}))


if __name__ == "__main__":
    main()
