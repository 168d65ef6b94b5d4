"""The full fault suite; see benchmarks/faults.sh."""

import argparse
import json
import shutil
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

from faults.jobs import Result, make_corpus
from faults.suite import SCENARIOS
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def run(name: str, corpus: Path, work: Path) -> tuple[Result, float]:
    """Runs a scenario in a folder of its own; whatever it raises is a failure."""
    place = work / name
    place.mkdir()
    for shared in ("data", "cache"):
        (place / shared).symlink_to(corpus / shared)
    began = time.monotonic()
    try:
        result = SCENARIOS[name].full(place)
    except Exception as error:
        result = Result(name, failures=[f"{type(error).__name__}: {error}"])
    return result, time.monotonic() - began


def markdown(rows: list[tuple[str, Result, float]]) -> str:
    """Returns the results as the table of docs/reliability.md."""
    lines = ["| scenario | tried | failed | figures | seconds |", "|---|---|---|---|---|"]
    for name, result, seconds in rows:
        figures = ", ".join(f"{key}: {value}" for key, value in result.figures.items())
        cells = (f"`{name}`: {result.name}", result.tries, len(result.failures), figures)
        lines.append(f"| {' | '.join(map(str, cells))} | {seconds:.0f} |")
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks/faults.sh", description=__doc__)
    parser.add_argument("--only", default="", help="names of scenarios, separated by commas")
    parser.add_argument("--out", default="runs/faults", help="folder for the results")
    given = parser.parse_args()
    names = [name for name in given.only.split(",") if name] or list(SCENARIOS)
    unknown = sorted({*names} - {*SCENARIOS})
    if unknown:
        parser.error(f"--only={given.only}: no {unknown[0]!r}; there are {', '.join(SCENARIOS)}")
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    out = Path(given.out)
    out.mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, Result, float]] = []
    with tempfile.TemporaryDirectory(prefix="ptft-faults-") as work:
        corpus = Path(work) / "corpus"
        (corpus / "cache").mkdir(parents=True)
        make_corpus(corpus)
        for number, name in enumerate(names, start=1):
            left = timedelta(minutes=round(sum(SCENARIOS[n].minutes for n in names[number - 1 :])))
            console.print(f"[{number}/{len(names)}] {name}: about {left} left", markup=False)
            result, seconds = run(name, corpus, Path(work))
            rows.append((name, result, seconds))
            for failure in result.failures:
                console.print(f"  FAILED {failure}", markup=False)
            told = ", ".join(f"{key}: {value}" for key, value in result.figures.items())
            console.print(
                f"  {result.tries} tried, {len(result.failures)} failed in {seconds:.0f} s; {told}",
                markup=False,
            )
            shutil.rmtree(Path(work) / name, ignore_errors=True)
            (out / "faults.md").write_text(markdown(rows))
            everything = {n: {**vars(r), "seconds": round(s, 1)} for n, r, s in rows}
            (out / "faults.json").write_text(json.dumps(everything, indent=1) + "\n")
    table = Table("scenario", "tried", "failed", "seconds", box=SIMPLE_HEAD)
    for name, result, seconds in rows:
        table.add_row(name, str(result.tries), str(len(result.failures)), f"{seconds:.0f}")
    console.print(table)
    console.print(f"made {out / 'faults.md'} and {out / 'faults.json'}")
    return int(any(result.failures for _, result, _ in rows))


if __name__ == "__main__":
    sys.exit(main())
