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
import platform
import re
import shutil
import sysconfig
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Self

import numpy as np

from ptft_jax.data.progress import Progress, no_progress
from ptft_jax.data.randomness import random_uint64
from ptft_jax.errors import ConfigError

# The label of the standard library.
STANDARD_LIBRARY = "python"
PACKAGES = (STANDARD_LIBRARY, "numpy", "scipy", "jax", "flax", "optax", "transformers")
# Grows whenever the same installation would give another text.
FORMAT_VERSION = 1
SUMMARY = "documentation.json"

LEAST_WORDS = 12
# Letters among the characters that are not space.
LEAST_LETTERS = 0.85
# Enough to learn from, few enough to fine-tune in a minute; small packages have fewer.
TRAIN_ROWS_PER_PACKAGE = 600
DEV_ROWS_PER_PACKAGE = 100
# One module in this many is held out from the labelled task's training rows.
_HELD_OUT_ONE_IN = 6

_SKIPPED_FOLDERS = frozenset(
    ("test", "tests", "testing", "idle_test", "site-packages", "dist-packages", "_vendor")
)


@dataclass(frozen=True)
class PackageText:
    """What one package gave: modules with at least one paragraph, paragraphs, bytes of UTF-8."""

    version: str
    modules: int
    paragraphs: int
    bytes: int


@dataclass(frozen=True)
class Documentation:
    """Where the gathered text is.

    `text_files`: one for each package, one paragraph per line, a blank line between modules.
    `task_dir`: a folder with train.tsv and dev.tsv, columns text and label (the package), which
    share no module; `train_rows` and `dev_rows` count them.
    """

    text_files: tuple[Path, ...]
    task_dir: Path
    packages: dict[str, PackageText]
    train_rows: int
    dev_rows: int

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """What was gathered in `folder` from the same versions, None when there is nothing."""
        try:
            summary = json.loads((folder / SUMMARY).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if summary["format_version"] != FORMAT_VERSION:
            return None
        packages = {name: PackageText(**text) for name, text in summary["packages"].items()}
        if {name: text.version for name, text in packages.items()} != _versions():
            return None
        return cls(
            tuple(folder / "text" / f"{name}.txt" for name in packages),
            folder / "task",
            packages,
            summary["train_rows"],
            summary["dev_rows"],
        )


def gather_documentation(
    out_dir: str | Path, progress: Progress = no_progress, workers: int = 2
) -> Documentation:
    """Gather the documentation of the installed packages into `out_dir`, or find it there.

    The result depends on the versions of Python and the packages only. When `out_dir` already
    holds the text of the same versions, it is returned at once; text of other versions is
    replaced. Nothing appears there before it is complete. `progress` counts source files. Raises
    ConfigError when `out_dir` holds something else.
    """
    out_dir = Path(out_dir)
    found = Documentation.read(out_dir)
    if found is not None:
        return found
    if out_dir.exists() and not (out_dir / SUMMARY).is_file() and any(out_dir.iterdir()):
        raise ConfigError(
            f"{out_dir} is not empty and holds no gathered documentation; choose another folder"
        )
    modules = _read_packages(progress, workers)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    partial = out_dir.parent / f".{out_dir.name}.partial-{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        _write(partial, modules)
        if out_dir.exists():
            shutil.rmtree(out_dir)
        os.replace(partial, out_dir)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    written = Documentation.read(out_dir)
    assert written is not None
    return written


def _versions() -> dict[str, str]:
    """The version of each package that is installed, in the order of PACKAGES."""
    return {
        name: platform.python_version() if name == STANDARD_LIBRARY else version(name)
        for name in PACKAGES
        if _package_folder(name) is not None
    }


def _package_folder(name: str) -> Path | None:
    """Where a package's source lies; finding a top-level package's spec does not import it."""
    if name == STANDARD_LIBRARY:
        return Path(sysconfig.get_path("stdlib"))
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(next(iter(spec.submodule_search_locations)))


def _source_files(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*.py")
        if not _SKIPPED_FOLDERS.intersection(path.relative_to(folder).parts[:-1])
    )


def _read_packages(progress: Progress, workers: int) -> dict[str, dict[str, list[str]]]:
    """Package → module → paragraphs, in a fixed order, each paragraph only where it comes first."""
    files = [
        (name, folder, path)
        for name in _versions()
        if (folder := _package_folder(name)) is not None
        for path in _source_files(folder)
    ]
    paths = [path for _, _, path in files]
    progress("Reading documentation", 0, len(files))
    paragraphs_of: list[list[str]] = []
    for paragraphs in _in_parallel(paths, workers):
        paragraphs_of.append(paragraphs)
        if len(paragraphs_of) % 50 == 0 or len(paragraphs_of) == len(files):
            progress("Reading documentation", len(paragraphs_of), len(files))
    seen: set[str] = set()
    modules: dict[str, dict[str, list[str]]] = {}
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


def _in_parallel(paths: Sequence[Path], workers: int) -> Iterator[list[str]]:
    if workers == 1:
        yield from map(read_paragraphs, paths)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(read_paragraphs, paths, chunksize=32)


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


def _write(folder: Path, modules: dict[str, dict[str, list[str]]]) -> None:
    (folder / "text").mkdir(parents=True)
    (folder / "task").mkdir()
    packages = {}
    for name, package in modules.items():
        content = "\n\n".join("\n".join(paragraphs) for paragraphs in package.values()) + "\n"
        (folder / "text" / f"{name}.txt").write_text(content, encoding="utf-8", newline="\n")
        count = sum(map(len, package.values()))
        packages[name] = PackageText(_versions()[name], len(package), count, len(content.encode()))
    rows = {}
    for split, wanted in (("train", TRAIN_ROWS_PER_PACKAGE), ("dev", DEV_ROWS_PER_PACKAGE)):
        lines = _task_rows(modules, split, wanted)
        rows[split] = len(lines)
        content = "".join(f"{line}\n" for line in ["text\tlabel", *lines])
        (folder / "task" / f"{split}.tsv").write_text(content, encoding="utf-8", newline="\n")
    summary = {
        "format_version": FORMAT_VERSION,
        "packages": {name: asdict(text) for name, text in packages.items()},
        "train_rows": rows["train"],
        "dev_rows": rows["dev"],
    }
    (folder / SUMMARY).write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def _task_rows(modules: dict[str, dict[str, list[str]]], split: str, wanted: int) -> list[str]:
    """At most `wanted` rows for each package, drawn from the split's modules, then shuffled."""
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
        rows += [f"{texts[i]}\t{label}" for i in sorted(order[:wanted])]
    shuffled = np.argsort(random_uint64(0, "task", _number(split), np.arange(len(rows))))
    return [rows[i] for i in shuffled]


def _number(name: str) -> int:
    return int.from_bytes(name.encode(), "little")
