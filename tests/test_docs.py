"""The documentation says what is so: names import, commands parse, links lead somewhere, versions are the pinned ones."""

import importlib
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from likeness.cli import app

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md"), *(ROOT / "benchmarks").glob("*.md")])
TINY = ROOT / "likeness" / "world" / "weights" / "tiny" / "model_index.json"

FENCE = re.compile(
    r"^(?P<mark><!-- runnable -->\n)?```(?P<language>bash|python)\n(?P<body>.*?)^```", re.MULTILINE | re.DOTALL
)
DOTTED = re.compile(r"`(likeness(?:\.\w+)+)`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# Names


def _resolve(dotted: str) -> Any:
    """The object of a dotted name: the longest importable prefix, then attributes; a dataclass field counts as one."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        try:
            value = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name is None or not dotted.startswith(error.name):
                raise
            continue
        for part in parts[length:]:
            fields = getattr(value, "__dataclass_fields__", {})
            value = fields[part] if part in fields else getattr(value, part)
        return value
    raise ModuleNotFoundError(dotted)


@pytest.mark.parametrize(
    "dotted", ["likeness.method.Nothing", "likeness.nowhere.Method", "likeness.method.Method.nothing"]
)
def test_wrong_names_are_seen(dotted: str):
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        _resolve(dotted)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_dotted_names_resolve(page: Path):
    for dotted in sorted(set(DOTTED.findall(page.read_text("utf-8")))):
        _resolve(dotted)


# Papers to code


@dataclass(frozen=True)
class Row:
    section: str
    where: str
    names: tuple[str, ...]
    status: str


def _rows() -> list[Row]:
    rows, section = [], ""
    for line in (DOCS / "papers.md").read_text("utf-8").split("\n"):
        if line.startswith("## "):
            section = line[3:]
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if len(cells) == 4 and cells[0] != "where" and not set(cells[0]) <= set("-"):
            rows.append(Row(section, cells[0], tuple(DOTTED.findall(cells[2])), cells[3]))
    return rows


def test_every_row_is_here_or_planned():
    rows = _rows()
    assert rows
    for row in rows:
        assert row.status in ("here", "planned"), row
        assert bool(row.names) == (row.status == "here"), row


@pytest.mark.parametrize(
    ("paper", "places"),
    [
        (
            "Concat-ID",
            [f"Eq. {i}" for i in (1, 2)]
            + [f"Section {s}" for s in ("4.1", "4.2", "4.3", "5.1")]
            + ["A.1", "A.2", "B.1", "B.2"],
        ),
        ("ST-DRC", [f"Eq. {i}" for i in range(1, 14)] + [f"Section {s}" for s in ("3.1", "3.4", "4.1")]),
    ],
)
def test_every_equation_and_section_has_a_row(paper: str, places: list[str]):
    told = {row.where for row in _rows() if row.section.startswith(paper)}
    assert not set(places) - told


# Commands


@dataclass(frozen=True)
class Example:
    """A fenced block of a page; those after a runnable mark are run, in the order of the page."""

    language: str
    body: str
    runnable: bool


def _examples(page: Path) -> list[Example]:
    fences = FENCE.finditer(page.read_text("utf-8"))
    return [Example(fence["language"], fence["body"], fence["mark"] is not None) for fence in fences]


def _commands(example: Example) -> list[list[str]]:
    """The words of every `likeness` command in a block."""
    lines = example.body.replace("\\\n", " ").split("\n") if example.language == "bash" else []
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("likeness ")]


def _parse(words: list[str]) -> None:
    """Parse a command line against the real command without running it."""
    command = typer.main.get_command(app)
    context = command.make_context("likeness", list(words))
    while isinstance(command, TyperGroup):
        name, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
        assert found is not None, f"no command {name}"
        command = found
        context = command.make_context(name, rest, parent=context)


def test_the_readme_has_commands_that_run():
    assert any(_commands(example) for example in _examples(ROOT / "README.md") if example.runnable)


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_parse(page: Path):
    for example in _examples(page):
        for words in _commands(example):
            _parse(words)


@pytest.mark.parametrize(
    "line", ["generate --no-such-option", "no-such-command", "world draw --first one --output people"]
)
def test_wrong_commands_are_seen(line: str):
    with pytest.raises(typer.TyperException):
        _parse(line.split())


def _run(words: list[str]) -> None:
    """Run a command in the current folder; a video at two steps, which changes nothing but its looks."""
    result = CliRunner().invoke(app, [*words, "--steps", "2"] if words[0] == "generate" else words)
    assert result.exit_code == 0, f"{words}: {result.output}"
    target = Path(words[words.index("--output") + 1])
    assert target.is_file() or any(target.iterdir()), words


@pytest.mark.parametrize("page", [page for page in PAGES if any(e.runnable for e in _examples(page))], ids=_name)
def test_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for example in _examples(page):
        if not example.runnable:
            continue
        for words in _commands(example):
            if words[0] == "generate" and not TINY.exists():
                pytest.skip("the tiny checkpoint is not there")
            _run(words)
        if example.language == "python":
            exec(compile(example.body, _name(page), "exec"), {"__name__": "example"})


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_python_examples_name_what_exists(page: Path):
    for example in _examples(page):
        if example.language == "python":
            compile(example.body, _name(page), "exec")
            for module, names in re.findall(r"^from (likeness[\w.]*) import (.+)$", example.body, re.MULTILINE):
                for name in names.split(","):
                    _resolve(f"{module}.{name.strip()}")


# People, links, versions


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_commands_draw_no_judges_people(page: Path):
    """People from 900,000 on are for outsiders to judge with; nobody is shown how to draw them."""
    for words in (words for example in _examples(page) for words in _commands(example)):
        if "--first" in words:
            count = int(words[words.index("--num") + 1]) if "--num" in words else 1
            assert int(words[words.index("--first") + 1]) + count <= 900_000


@pytest.mark.parametrize("page", PAGES, ids=_name)
def test_local_links_lead_somewhere(page: Path):
    for target in LINK.findall(page.read_text("utf-8")):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.split("#")[0]).exists(), f"{_name(page)} links to {target}"


def _pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text("utf-8").split("\n")
    return {
        name.lower().replace("_", "-"): version
        for name, version in (line.split("==") for line in lines if "==" in line)
    }


def test_every_dependency_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    names = {re.split(r"[<>=!~\[; ]", requirement)[0].lower().replace("_", "-") for requirement in wanted}
    assert not names - set(_pins())
    assert "torchvision" not in _pins()


def test_the_dependency_page_has_the_pinned_versions():
    pins = _pins()
    text = (DOCS / "dependencies.md").read_text("utf-8")
    told = re.findall(r"^\| ([\w-]+) \| ([\d.]+) \|", text, re.MULTILINE) + re.findall(
        r"([a-z][\w-]+) \(?(\d+(?:\.\d+)+)\b", text
    )
    assert len(told) > 15
    assert not {
        (name, version) for name, version in told if pins.get(name.lower().replace("_", "-"), version) != version
    }
