"""Draws what a command printed as the picture of a terminal, an SVG.

    bash launch/demo.sh | tee demo.log
    .venv/bin/python launch/picture.py demo.log docs/demo.svg --from "step 350/390"

`--from` begins the picture at the first line that holds this text.
"""

import argparse
import io
import re
from pathlib import Path

from rich.console import Console
from rich.text import Text


def main() -> None:
    """Reads the log and writes the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--from", dest="start", default="")
    parser.add_argument("--title", default="ptft demo")
    arguments = parser.parse_args()
    lines = arguments.log.read_text(encoding="utf-8").splitlines()
    first = next((i for i, line in enumerate(lines) if arguments.start in line), 0)
    width = max(len(line) for line in lines[first:])
    console = Console(record=True, width=width, file=io.StringIO())
    console.print(Text("\n".join(lines[first:])))
    svg = console.export_svg(title=arguments.title)
    # Without the fonts that rich would have the reader's browser fetch from elsewhere.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    arguments.picture.write_text(svg, encoding="utf-8")
    print(f"wrote {arguments.picture}: {len(lines) - first} lines of {width} characters")


if __name__ == "__main__":
    main()
