"""What README and docs say is so: commands parse, links and paths lead somewhere, keys are real.

Documentation that a reader cannot follow is worse than none, and it goes wrong silently.
"""

import ast
import importlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from absl import flags

from ptft_jax import cli
from ptft_jax.commands.keys import KEYS
from ptft_jax.commands.train import continual, many
from ptft_jax.data.tasks.catalogue import tasks_of
from ptft_jax.runs import defaults
from ptft_jax.runs.config import flatten
from ptft_jax.training.accounting.time_account import totals

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "README.zh.md", *sorted((ROOT / "docs").rglob("*.md"))]
CONFIGS = sorted(ROOT.glob("configs/*/*.py"))
DEFAULTS = {
    name: flatten(getattr(defaults, name)().to_dict()) for name in ("prepare", "pretrain")
} | {
    "finetune": {
        key: value
        for kind in defaults.KINDS
        for key, value in flatten(defaults.finetune(kind).to_dict()).items()
    }
}

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
PATH = re.compile(r"^(?:ptft_jax|configs|docs|launch|tests|\.ci)/[\w./*{},-]*")
# Not the 16 of bfloat16, nor a version's parts.
NUMBER = r"(?<![A-Za-z\d_.])\d(?:[\d.,]*\d)?(?:e-?\d+)?"
KEY_TABLE = re.compile(r"<!-- keys: (\w+) -->\n\n((?:\|.*\n)+)")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[str]:
    return [body for name, body in BLOCK.findall(page.read_text("utf-8")) if name in languages]


def inline_code(page: Path) -> list[str]:
    return re.findall(r"`([^`\n]+)`", BLOCK.sub("", page.read_text("utf-8")))


def ptft_commands(shell: str) -> Iterator[list[str]]:
    """The arguments of every ptft command in some lines of shell."""
    # A variable of a loop stands for the first of its values.
    values = dict(re.findall(r"\bfor (\w+) in (\S+?)[ ;]", shell))
    values |= dict(re.findall(r"^(\w+)=(\S+)$", shell, re.MULTILINE))
    for line in shell.replace("\\\n", " ").splitlines():
        if line.strip().startswith("ptft "):
            command = re.sub(r"\$(\w+)", lambda variable: values[variable[1]], line)
            yield shlex.split(command, comments=True)[1:]


DOCUMENTED = [
    pytest.param(arguments, id=f"{page.stem}-{' '.join(arguments)[:60]}")
    for page in PAGES
    for body in blocks(page, "bash", "sh")
    for arguments in ptft_commands(body)
]
# docs/results.md gives the commands that made its figures in table cells, too.
IN_TEXT = sorted(
    {code for page in PAGES for code in inline_code(page) if re.match(r"ptft [a-z]", code)}
)


def parses(arguments: list[str], monkeypatch) -> None:
    """Runs a command line up to the point where the command itself would begin."""
    name, _ = cli.command_of(arguments)
    module = cli.module_of(name)
    reached = []
    monkeypatch.setattr(module, "run", lambda *_: reached.append(name))
    for several in (many, continual):
        monkeypatch.setattr(several, "run", lambda plan: reached.append(name))
    assert cli.main(arguments) == 0
    assert reached == [name] or {"--help", "-h"} & set(arguments)


@pytest.mark.parametrize("arguments", DOCUMENTED)
def test_documented_commands_parse(arguments, monkeypatch, capsys):
    """Readers copy commands: every command, flag, config file and key in a code block exists."""
    parses(arguments, monkeypatch)


@pytest.mark.parametrize("command", IN_TEXT)
def test_commands_named_in_text_exist(command):
    """A flag that was renamed must not live on in a sentence."""
    name, arguments = cli.command_of(command.removeprefix("ptft ").split())
    module = cli.module_of(name)
    values = flags.FlagValues()
    module.define_flags(values)
    for argument in arguments:
        flag = re.match(r"--([\w.]+)", argument)
        if flag and flag[1] != "help" and not re.match(r"config(\.|$)", flag[1]):
            assert flag[1] in values, command


def test_config_keys_named_in_text_exist():
    """`--config.key` in a sentence is copied as readily as a command."""
    known = {key for keys in DEFAULTS.values() for key in keys}
    for page in PAGES:
        for code in inline_code(page):
            for key in re.findall(r"--config\.([\w.]+)", code):
                assert key in known or key.startswith("key"), f"{name_of(page)}: {code}"


@pytest.mark.parametrize("command", list(DEFAULTS))
def test_key_tables_are_complete_and_true(command):
    """The tables are what users read instead of the code: each key once, with its real default."""
    tables = {
        name: rows for page in PAGES for name, rows in KEY_TABLE.findall(page.read_text("utf-8"))
    }
    shown, helped = {}, {}
    for keys in KEYS[command].values():
        helped |= keys
    for row in tables[command].splitlines()[2:]:
        key, default, meaning = (cell.strip() for cell in row.strip("|").split("|"))
        assert key not in shown, key
        # Links aside, `--help` says the same.
        assert re.sub(r":? \(?\[[^]]*\]\([^)]*\)\)?", "", meaning) == helped.pop(key.strip("`"))
        shown[key.strip("`")] = ast.literal_eval(default.strip("`"))
    assert shown == DEFAULTS[command]
    assert not helped
    # 1 == 1.0 == True, but a reader who copies them gets another type.
    types = {key: type(value) for key, value in DEFAULTS[command].items()}
    assert {key: type(value) for key, value in shown.items()} == types


def test_the_table_of_tasks_is_true():
    """Folder and metrics of every task of a benchmark, as the code has them."""
    text = (ROOT / "docs" / "tasks.md").read_text("utf-8")
    for suite in ("glue", "superglue", "clue"):
        table = text.partition(f"<!-- tasks: {suite} -->\n\n")[2].partition("\n\n")[0]
        rows = re.findall(r"^\| `(\w+)` \| `([\w-]+)` \| ([\w, ]+) \|$", table, re.MULTILINE)
        assert rows == [
            (name, task.folder, ", ".join(task.metrics)) for name, task in tasks_of(suite).items()
        ]


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_configs_load_and_say_their_command(path, monkeypatch, capsys):
    """A config's docstring is its manual: the command in it must be one that runs this file."""
    module = ast.parse(path.read_text("utf-8"))
    docstring = ast.get_docstring(module)
    assert docstring, f"{name_of(path)} has no docstring"
    commands = list(ptft_commands(docstring))
    assert commands, f"{name_of(path)}: no `ptft …` line in the docstring"
    for arguments in commands:
        assert any(argument.startswith(f"--config={name_of(path)}") for argument in arguments)
        parses(arguments, monkeypatch)


def messages() -> str:
    """Every string of the package and the launch scripts, with … for what is filled in."""
    found = [path.read_text("utf-8") for path in sorted(ROOT.glob("launch/*.sh"))]
    for path in sorted((ROOT / "ptft_jax").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = (getattr(part, "value", None) for part in node.values)
                found.append("".join(part if isinstance(part, str) else "…" for part in parts))
    return "\n".join(found)


def test_listed_messages_are_those_of_the_code():
    """Who searches docs/errors.md for a message must find the words that the program printed."""
    known = messages()
    text = (ROOT / "docs" / "errors.md").read_text("utf-8").partition("## Common messages")[2]
    rows = re.findall(r"^\| (`.*?) \|", text, re.MULTILINE)
    assert len(rows) > 40
    for row in rows:
        for message in re.findall(r"`([^`]+)`", row):
            # What is between the filled-in parts, which are … or an example in quotes.
            for part in re.split(
                r"…|'[^']*'|\bN\b|\b\d+\b", message.removeprefix("[setup] error: ")
            ):
                part = part.strip(" (),:;'=?")
                assert len(part) < 8 or part in known, f"{message!r}: {part!r}"


def contents(page: Path) -> list[tuple[str, list[str] | str]]:
    """What a translation leaves alone: code, and the links, code and numbers of each line."""
    text = page.read_text("utf-8")
    found = BLOCK.findall(text)
    for line in BLOCK.sub("", text).splitlines():
        links = [link for link in LINK.findall(line) if not link.startswith("README")]
        if line.startswith("|"):
            kept = re.finditer(rf"`[^`]+`|{NUMBER}", line)
            found.append(("row", [*links, *(match[0] for match in kept)]))
        else:
            found += [("text", one) for one in [*links, *re.findall(NUMBER, line)]]
    return found


def test_the_chinese_readme_says_the_same():
    """Who reads the one must not be told other commands, figures or places than by the other."""
    assert contents(ROOT / "README.zh.md") == contents(ROOT / "README.md")


def test_the_glossary_has_the_words_of_the_screen():
    """The kinds of time of `ptft status`, and the metrics, under the names that are printed."""
    defined = re.findall(r"^\| (.*?) \|", (ROOT / "docs" / "glossary.md").read_text("utf-8"), re.M)
    words = {word for row in defined for word in re.findall(r"`(\w+)`", row)}
    assert words >= set(totals([]))
    assert words >= {"loss", "mlm_loss", "mlm_accuracy", "nsp_loss", "nsp_accuracy", "data_wait"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_metric_has_one_name(page):
    """What is logged as `mlm_accuracy` is called so in the text, too."""
    assert not re.search(
        r"MLM acc|masked(?: word| token)? acc|masked words right", page.read_text()
    )


def slugs(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    text = re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    """A relative link names a file of the repository, and an anchor one of its headings."""
    for link in LINK.findall(BLOCK.sub("", page.read_text("utf-8"))):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.is_relative_to(ROOT), link
        assert target.is_file(), link
        if anchor:
            assert anchor in slugs(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_named_exist(page):
    """A path in the text or in a command is one of the repository, from its root."""
    shell = " ".join(blocks(page, "bash", "sh"))
    for code in [*inline_code(page), *re.split(r"[\s=]+", shell)]:
        match = PATH.match(code)
        if not match:
            continue
        pattern = re.sub(r"\{[^}]*\}", "*", match[0]).rstrip("./")
        assert list(ROOT.glob(pattern)), f"{name_of(page)} names {code}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_are_valid(page):
    """Examples compile, and what they import from ptft_jax is there."""
    for body in blocks(page, "python"):
        # Signatures, as in docs/architecture.md, are no programs.
        if "->" in body and "import" not in body:
            continue
        for node in ast.walk(ast.parse(body)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ptft_jax"):
                module = importlib.import_module(node.module or "")
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module}.{alias.name}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_pages_have_no_private_places(page):
    """Paths and hosts of one machine mean nothing to a reader."""
    text = page.read_text("utf-8")
    assert not re.search(r"/(?:home|root|work|tmp|mnt)/|localhost|/usr/local", text)
