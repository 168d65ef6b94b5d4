"""The embedded corpus: the English documentation that every installation carries with it.

Module, class and function docstrings of the standard library and of the packages ptft_jax depends
on are read with `ast`, without importing anything; what is left after a filter for prose makes a
corpus for pretraining (a module is a document) and a labelled task (which package does a paragraph
come from?). It needs no download, and no third-party text lies in the repository.
"""

import ast
import json
import multiprocessing
import os
import re
import shutil
import sysconfig
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.data.randomness import random_uint64
from ptft_jax.errors import ConfigError

# The label of the standard library.
STANDARD_LIBRARY = "python"
PACKAGES = (STANDARD_LIBRARY, "numpy", "scipy", "jax", "flax", "optax", "transformers")
SUMMARY = "packages.json"

LEAST_WORDS = 12
# Letters among the characters that are not space.
LEAST_LETTERS = 0.85
# Enough to learn from, few enough to fine-tune in a minute; small packages have fewer.
ROWS_PER_PACKAGE = {"train": 600, "dev": 100}
# One module in this many is held out from the labelled task's training rows.
_HELD_OUT_ONE_IN = 6

_SKIPPED_FOLDERS = frozenset(
    ("test", "tests", "testing", "idle_test", "site-packages", "dist-packages", "_vendor")
)


@dataclass(frozen=True)
class PackageText:
    """What one package gave: modules with at least one paragraph, paragraphs, bytes of UTF-8."""

    modules: int
    paragraphs: int
    bytes: int


@dataclass(frozen=True)
class Documentation:
    """Where the gathered text is.

    `text_files`: one for each package, one paragraph per line, a blank line between modules.
    `task_dir`: a folder with train.tsv and dev.tsv, columns text and label (the package), which
    share no module.
    """

    text_files: tuple[Path, ...]
    task_dir: Path
    packages: dict[str, PackageText]


def gather_documentation(out_dir: str | Path, progress: Progress = no_progress) -> Documentation:
    """Gather the documentation of the installed packages into `out_dir`, or find it there.

    The result depends on the versions of Python and the packages only. Nothing appears at `out_dir`
    before it is complete. `progress` counts source files. Raises ConfigError when `out_dir` holds
    something else.
    """
    out_dir = Path(out_dir)
    if not (out_dir / SUMMARY).is_file():
        if out_dir.exists() and any(out_dir.iterdir()):
            raise ConfigError(
                f"{out_dir} is not empty and holds no gathered documentation; choose another folder"
            )
        modules = _read_packages(progress)
        partial = out_dir.parent / f".{out_dir.name}.partial"
        shutil.rmtree(partial, ignore_errors=True)
        _write(partial, modules)
        os.replace(partial, out_dir)
    summary = json.loads((out_dir / SUMMARY).read_text(encoding="utf-8"))
    return Documentation(
        tuple(out_dir / "text" / f"{name}.txt" for name in summary),
        out_dir / "task",
        {name: PackageText(**text) for name, text in summary.items()},
    )


def _package_folder(name: str) -> Path | None:
    """Where a package's source lies; finding a top-level package's spec does not import it."""
    if name == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


Modules = dict[str, dict[str, list[str]]]


def _read_packages(progress: Progress) -> Modules:
    """Package → module → paragraphs, in a fixed order, each paragraph only where it comes first."""
    files = [
        (name, folder, path)
        for name in PACKAGES
        if (folder := _package_folder(name)) is not None
        for path in sorted(folder.rglob("*.py"))
        if not _SKIPPED_FOLDERS.intersection(path.relative_to(folder).parts[:-1])
    ]
    progress("Reading documentation", 0, len(files))
    paragraphs_of: list[list[str]] = []
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, mp_context=spawn) as pool:
        for paragraphs in pool.map(read_paragraphs, (path for *_, path in files), chunksize=32):
            paragraphs_of.append(paragraphs)
            progress("Reading documentation", len(paragraphs_of), len(files))
    seen: set[str] = set()
    modules: Modules = {}
    for (name, folder, path), paragraphs in zip(files, paragraphs_of, strict=True):
        kept = []
        for paragraph in paragraphs:
            # Copies often differ in a name or a number only.
            key = re.sub(r"[\W\d_]+", " ", paragraph.lower())
            if key not in seen:
                seen.add(key)
                kept.append(paragraph)
        if kept:
            modules.setdefault(name, {})[path.relative_to(folder).as_posix()] = kept
    return modules


def read_paragraphs(path: Path) -> list[str]:
    """The paragraphs of prose in the docstrings of a Python file; none when it cannot be parsed."""
    source = path.read_bytes()
    if b'"""' not in source and b"'''" not in source:
        return []
    try:
        with warnings.catch_warnings():
            # Invalid escapes in other people's code.
            warnings.simplefilter("ignore")
            tree = ast.parse(source)
    except (SyntaxError, ValueError):
        return []
    return [
        paragraph for docstring in _docstrings(tree) for paragraph in prose_paragraphs(docstring)
    ]


def _docstrings(node: ast.AST) -> Iterator[str]:
    """The docstrings of a module, its classes and its functions, in the order of the source."""
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        docstring = ast.get_docstring(node)
        if docstring:
            yield docstring
    # Definitions stand in statements; looking into expressions would take most of the time.
    for name in ("body", "orelse", "handlers", "finalbody"):
        for child in getattr(node, name, None) or ():
            if isinstance(child, ast.stmt | ast.ExceptHandler):
                yield from _docstrings(child)


_UNDERLINE = re.compile(r"\s*([=\-~^#*+.\"'])\1{2,}\s*\Z")
_NOT_PROSE = re.compile(r"\.\.|>>>|\.\.\.|[|+#*•@<:`$]|--|=|\[\d+\]")
# A list's item, "name: …", "name (type): …" or a literature reference: deeper lines belong to it.
# NumPy's "name : type" is a heading, and the lines below it a paragraph of their own.
_ITEM = re.compile(
    r"(?P<mark>[-*+•]\s+|\(?(?:\d+|[a-z])[.)]\s+|[`*]*[\w.]+[`*]*(?:\s*\([^)]*\))?:\s+)\S"
    r"|\.\.\s\["
)
_MARKUP = (
    # :func:`~numpy.linalg.solve` and :ref:`title <target>`, `text <url>`_, [text](url)
    (re.compile(r":[a-z:]+:`~?!?([^`<]+?)(?:\s*<[^`>]*>)?`"), r"\1"),
    (re.compile(r"`([^`<]+?)\s*<[^`>]*>`__?"), r"\1"),
    (re.compile(r"\[([^\]\[]+)\]\([^)\s]+\)"), r"\1"),
    # ``code``, `name`_, **strong**, *emphasis*, references
    (re.compile(r"``?([^`]+)``?_{0,2}"), r"\1"),
    (re.compile(r"\*\*?([^*\s][^*]*)\*\*?"), r"\1"),
    (re.compile(r"\s*\[(?:\d+|[A-Z]\w*)\]_"), ""),
    (re.compile(r"::(?=\s|\Z)"), ":"),
    (re.compile(r"\s+"), " "),
)


def prose_paragraphs(docstring: str) -> list[str]:
    """The paragraphs of a cleaned docstring that are running English text, each on one line.

    An item of a list and the description of a parameter are paragraphs too. Left out: code,
    doctests, tables, directives, formulas, headings, references; what has fewer than 12 words or
    few letters. Inline markup is replaced by its text.
    """
    paragraphs = []
    for block in re.split(r"\n\s*\n", docstring):
        for piece in _pieces(block.strip("\n").split("\n")):
            if _NOT_PROSE.match(piece):
                continue
            for pattern, replacement in _MARKUP:
                piece = pattern.sub(replacement, piece)
            piece = piece.strip()
            if _is_prose(piece):
                paragraphs.append(piece)
    return paragraphs


def _pieces(lines: list[str]) -> Iterator[str]:
    """The runs of lines of one indentation, joined; an item with its deeper lines is one run."""
    if len(lines) >= 2 and _UNDERLINE.match(lines[1]):
        lines = lines[2:]
    position = 0
    while position < len(lines):
        first = lines[position].strip()
        # What follows a doctest without a blank line is its output.
        if first.startswith(">>>"):
            return
        indent = _indent(lines[position])
        item = _ITEM.match(first)
        end = position + 1
        while end < len(lines) and (
            _indent(lines[end]) > indent
            if item
            else _indent(lines[end]) == indent and not _ITEM.match(lines[end].strip())
        ):
            end += 1
        joined = " ".join(line.strip() for line in lines[position:end])
        yield joined.removeprefix(item["mark"] or "") if item else joined
        position = end


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _is_prose(text: str) -> bool:
    if len(text.split()) < LEAST_WORDS or not text[0].isalpha():
        return False
    if any(mark in text for mark in (">>>", "\\", "`", "|", "{", "://", " = ", "==", "$")):
        return False
    solid = text.replace(" ", "")
    return sum(map(str.isalpha, solid)) >= LEAST_LETTERS * len(solid)


def _write(folder: Path, modules: Modules) -> None:
    (folder / "text").mkdir(parents=True)
    (folder / "task").mkdir()
    summary = {}
    for name, package in modules.items():
        content = "\n\n".join("\n".join(paragraphs) for paragraphs in package.values()) + "\n"
        (folder / "text" / f"{name}.txt").write_text(content, encoding="utf-8", newline="\n")
        count = sum(map(len, package.values()))
        summary[name] = asdict(PackageText(len(package), count, len(content.encode())))
    for split in ROWS_PER_PACKAGE:
        content = "".join(f"{line}\n" for line in ["text\tlabel", *_task_rows(modules, split)])
        (folder / "task" / f"{split}.tsv").write_text(content, encoding="utf-8", newline="\n")
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _task_rows(modules: Modules, split: str) -> list[str]:
    """Rows of each package, drawn from the split's modules, then shuffled."""
    rows = []
    for label, package in modules.items():
        held_out = random_uint64(0, "module", _number(label), np.arange(len(package)))
        is_dev = held_out % np.uint64(_HELD_OUT_ONE_IN) == 0
        texts = [
            paragraph
            for paragraphs, dev in zip(package.values(), is_dev, strict=True)
            if dev == (split == "dev")
            for paragraph in paragraphs
        ]
        order = np.argsort(random_uint64(0, "row", _number(label), np.arange(len(texts))))
        rows += [f"{texts[i]}\t{label}" for i in sorted(order[: ROWS_PER_PACKAGE[split]])]
    shuffled = np.argsort(random_uint64(0, "task", _number(split), np.arange(len(rows))))
    return [rows[i] for i in shuffled]


def _number(name: str) -> int:
    return int.from_bytes(name.encode(), "little")
