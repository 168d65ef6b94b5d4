"""Runs small Python programs as the processes of a job under the supervisor of `ptft launch local`.

python tests/supervised.py '{"programs": ["print(1)"], "run_dir": "…", "restarts": 0, "grace": 1}'
"""

import json
import signal
import sys

from ptft_jax.commands.launch.supervisor import Start, supervise
from ptft_jax.errors import PtftError

# What a program has at hand: `number` of the process, `say`, `on_signal`, and `forever`.
PRELUDE = """
import os, signal, sys, time
number = int(os.environ["NUMBER"])
start = int(os.environ["START"])
def on_signal(kind, code):
    def handle(*_):
        print("got", signal.Signals(kind).name, file=sys.stderr, flush=True)
        os._exit(code)
    signal.signal(kind, handle)
def forever():
    print("ready", os.getpid(), file=sys.stderr, flush=True)
    time.sleep(60)
"""


def main() -> int:
    settings = json.loads(sys.argv[1])
    # As a terminal gives them: nohup and background jobs of a shell hand on ignored ones.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    starts = iter(range(100))

    def make_starts() -> list[Start]:
        start = next(starts)
        return [
            Start(
                [sys.executable, "-S", "-c", PRELUDE + program],
                {"NUMBER": str(number), "START": str(start)},
            )
            for number, program in enumerate(settings["programs"])
        ]

    try:
        supervise(
            make_starts,
            run_dir=settings["run_dir"],
            restarts=settings["restarts"],
            grace_seconds=settings["grace"],
        )
    except PtftError as error:
        print(f"ptft: error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
