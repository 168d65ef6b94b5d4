"""The embedded corpus: prose out of docstrings, the same in every gathering."""

import shutil
import sys

import pytest
from command_line import tree

from ptft_jax.demo import documentation as embedded
from ptft_jax.demo.documentation import (
    PackageText,
    gather_documentation,
    prose_paragraphs,
    read_paragraphs,
)
from ptft_jax.errors import ConfigError

PROSE = (
    "This is a sentence of running text that has more than enough words to be kept by the filter."
)


@pytest.mark.parametrize(
    ("docstring", "expected"),
    [
        (PROSE, [PROSE]),
        (PROSE.replace(" has ", "\nhas "), [PROSE]),
        (f"Short.\n\n{PROSE}\n\nToo short as well.", [PROSE]),
        (f"Notes\n-----\n{PROSE}", [PROSE]),
        (f"Parameters\n----------\nx : array_like\n    {PROSE}\ny : int\n    A number.", [PROSE]),
        (f"Args:\n  x: {PROSE}\n  y (int, optional): Some\n    {PROSE}", [PROSE, f"Some {PROSE}"]),
        (f"* {PROSE}\n* {PROSE}", [PROSE, PROSE]),
        (f">>> call()\n{PROSE}", []),
        (f".. math::\n\n   \\alpha = {PROSE}", []),
        (f'.. [1] A. Author, "{PROSE}"\n   {PROSE}', []),
        ("a | b | c d e f g h i j k l m n o p q r s t u v w x y z", []),
        ("if x is None: return [f(a, b) for a, b in zip(c, d)] else: y = g(1, 2, 3, 4, 5)", []),
        (PROSE.replace("text", "``text``"), [PROSE]),
        (PROSE.replace("running text", "*running* :func:`~a.text`"), [PROSE]),
        (PROSE.replace("text", "`text <https://example.org/a>`__"), [PROSE]),
        (PROSE.replace("text", "[text](https://example.org/a)"), [PROSE]),
        ("", []),
    ],
)
def test_keeps_prose_only(docstring, expected):
    """Code, tables, formulas and references would teach a language model their layout."""
    found = prose_paragraphs(docstring)
    assert [text.replace("a.text", "text") for text in found] == expected


def test_reads_the_docstrings_of_all_definitions_without_running_them(tmp_path):
    """In the order of the source, nested ones included; code that does not parse gives none."""
    path = tmp_path / "module.py"
    path.write_text(
        f'"""One. {PROSE}"""\nraise SystemExit\nif True:\n'
        f'    class A:\n        """Two. {PROSE}"""\n'
        f'        async def f(self):\n            """Three. {PROSE}"""\n            "\\d"\n'
        f'x = """Not a docstring. {PROSE}"""\n'
    )
    assert [text.split(".")[0] for text in read_paragraphs(path)] == ["One", "Two", "Three"]
    path.write_text('print """old"""')
    assert read_paragraphs(path) == []


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """Two installed packages: with copies of a paragraph, tests, and a hostile module."""
    for name in ("first_package", "second_package"):
        root = tmp_path / "site" / name
        (root / "tests").mkdir(parents=True)
        (root / "__init__.py").write_text("raise RuntimeError('imported')\n")
        (root / "tests" / "a.py").write_text(f'"""In a test. {PROSE}"""\n')
        for number in range(40):
            words = f"{PROSE} It belongs to {name} and the letters {chr(97 + number % 26)}"
            words += chr(97 + number // 26) + "."
            (root / f"m{number}.py").write_text(f'"""{words}\n\nIn both. {PROSE}"""\n')
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.setattr(embedded, "PACKAGES", ("first_package", "absent_package", "second_package"))
    return tmp_path / "site"


def test_gathers_a_corpus_and_a_task(tmp_path, packages):
    """A module is a document, a paragraph occurs once, and train and dev share no module."""
    reports = []
    found = gather_documentation(
        tmp_path / "out", lambda _, done, total: reports.append((done, total))
    )
    assert reports[-1] == (82, 82)
    assert list(found.packages) == ["first_package", "second_package"]
    text = found.text_files[0].read_text()
    assert found.packages["first_package"] == PackageText(40, 41, len(text.encode()))
    assert text.count("In both.") == 1
    assert "In a test" not in text
    assert len(text.strip().split("\n\n")) == 40
    rows = {}
    for split in ("train", "dev"):
        lines = (found.task_dir / f"{split}.tsv").read_text().splitlines()
        assert lines[0] == "text\tlabel"
        rows[split] = [line.split("\t") for line in lines[1:]]
        assert len(rows[split]) > 5
        assert {label for _, label in rows[split]} == set(found.packages)
    assert not {text for text, _ in rows["train"]} & {text for text, _ in rows["dev"]}
    assert sum(map(len, rows.values())) == 81
    assert not {"first_package", "second_package"} & set(sys.modules)
    gather_documentation(tmp_path / "two")
    assert tree(tmp_path / "out") == tree(tmp_path / "two")
    shutil.rmtree(packages)
    assert gather_documentation(tmp_path / "out") == found  # without reading it again


def test_does_not_touch_a_folder_of_something_else(tmp_path, packages):
    """A mistyped folder must never cost a file."""
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match="holds no gathered documentation"):
        gather_documentation(tmp_path)
