"""Stands for the package `trackio`: writes what it is told to the file $FAKE_FILE, a line per call.

$FAKE_FAULT says what goes wrong: "refuse" or "away" in init, "fail" or "hang" in log.
"""

import json
import os
import threading

FAULT = "FAKE_FAULT"


def _note(call: str, **content: object) -> None:
    with open(os.environ["FAKE_FILE"], "a", encoding="utf-8") as file:
        file.write(json.dumps({"call": call, **content}) + "\n")


def init(project: str, **settings: object) -> "Run":
    if os.environ.get(FAULT) == "refuse":
        raise ConnectionError("nobody answers")
    if os.environ.get(FAULT) == "away":
        threading.Event().wait()
    _note("init", project=project, **settings)
    return Run()


class Run:
    def log(self, metrics: dict[str, float], step: int) -> None:
        if os.environ.get(FAULT) == "fail":
            raise ConnectionError("the network is away")
        if os.environ.get(FAULT) == "hang":
            threading.Event().wait()
        _note("log", step=step, metrics=metrics)

    def finish(self) -> None:
        _note("finish")
