"""README and docs: commands parse, links lead somewhere, examples of Python run."""

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import pytest
from support.cli import ROOT, load_script, working_directory

from guided_diffusion import logger
from guided_diffusion.commands import flag_table
from guided_diffusion.commands.launcher import SHORT_NAMES
from guided_diffusion.runtime.command import Command

README = ROOT / "README.md"
PAGES = [README, *sorted((ROOT / "docs").glob("*.md"))]
OTHERS = [ROOT / f"{name}.md" for name in ("CONTRIBUTING", "CHANGELOG", "SECURITY")]
OTHERS.append(ROOT / "assets" / "demo" / "README.md")
BASH = shutil.which("bash")
# With nowhere to look for programs, bash hands every command of a block to this function.
RECORDER = r"""
command_not_found_handle() { printf '%s\x1f' "$@" >> words; printf '\x1e' >> words; }
PATH=/nowhere
"""


def name_of(page: Path) -> str:
    """Return the path of a page in the repository."""
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """Return the fenced blocks of a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.M | re.S)


def prose(page: Path) -> str:
    """Return a page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.M | re.S)


def commands(block: str, folder: Path) -> list[list[str]]:
    """Return the commands that bash would run for a block, each as its words."""
    subprocess.run([BASH, "-euc", RECORDER + block], cwd=folder, check=True)
    lines = (folder / "words").read_text("utf-8").split("\x1e")
    (folder / "words").unlink()
    return [line.split("\x1f")[:-1] for line in lines[:-1]]


def ours(words: list[str]) -> tuple[str, list[str]] | None:
    """Return name and arguments of our command in a line, behind whatever launches it."""
    for index, word in enumerate(words):
        if word.startswith("scripts/"):
            return Path(word).stem, words[index + 1 :]
        if word in ("guided-diffusion", "guided_diffusion"):
            name, *flags = words[index + 1 :]
            return SHORT_NAMES.get(name, name), flags
    return None


def command_of(name: str, words: list[str]) -> tuple[Command, list[str]]:
    """Return a command, and the words that it parses."""
    module = load_script(name)
    if name == "benchmark":
        measurement, words = module.chosen(words)
        return module.MEASUREMENTS[measurement].command(), words
    return module.main, words


@cache
def all_flags() -> set[str]:
    """Return the flags of all commands."""
    parsers = [command.parser() for _, command in flag_table.commands()]
    return {flag for parser in parsers for flag in parser._option_string_actions}


def anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub names them."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_readme_is_short():
    assert len(README.read_bytes()) <= 8192


@pytest.mark.skipif(BASH is None, reason="bash reads the blocks")
@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_every_command_parses(page, tmp_path):
    for block in blocks(page, "bash"):
        for words in commands(block, tmp_path):
            if found := ours(words):
                command, arguments = command_of(*found)
                command.parse(arguments)  # exits with the reason where it cannot
            elif "pytest" in words:
                assert [
                    w for w in words if w.startswith("tests/") and not (ROOT / w).exists()
                ] == []


@pytest.mark.skipif(BASH is None, reason="bash reads the blocks")
def test_the_commands_of_a_block_are_found(tmp_path):
    block = """
# A comment, a variable, a loop, and lines that go on
FLAGS="--lr 3e-4 \\
    --batch_size 2"
for X in a b; do mpiexec -n 2 python scripts/image_train.py --data_dir $X $FLAGS; done
pip install -e ".[test]" && guided-diffusion train --out_dir 'my runs'  # and more
"""
    found = commands(block, tmp_path)
    flags = ["--lr", "3e-4", "--batch_size", "2"]
    assert [ours(words) for words in found] == [
        ("image_train", ["--data_dir", "a", *flags]),
        ("image_train", ["--data_dir", "b", *flags]),
        None,
        ("image_train", ["--out_dir", "my runs"]),
    ]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_flag_that_the_text_names_exists(page):
    spans = " ".join(re.findall(r"`([^`]*)`", prose(page)))
    named = set(re.findall(r"(?<![\w-])--[a-z]\w*", spans))
    assert named <= all_flags() | {"--help"}, named - all_flags()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_module_that_the_text_names_exists(page):
    spans = " ".join(re.findall(r"`([^`]*)`", prose(page)))
    named = set(re.findall(r"(?<![\w/])[a-z][\w/]*\.py\b", spans))
    places = [ROOT, ROOT / "guided_diffusion", ROOT / "scripts"]
    assert [name for name in named if not any((place / name).exists() for place in places)] == []


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=name_of)
def test_every_link_leads_somewhere(page):
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in link:
            continue
        path, _, anchor = unquote(link).partition("#")
        target = page.parent / path if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "python.md"], ids=name_of)
def test_the_examples_of_python_run(page, tmp_path):
    (tmp_path / "assets").symlink_to(ROOT / "assets")
    names = {"__name__": "__main__"}
    assert blocks(page, "python")
    with working_directory(tmp_path):
        for block in blocks(page, "python"):
            exec(compile(block, str(page), "exec"), names)
    logger.reset()  # examples configure it


def test_the_page_of_flags_is_current():
    assert (ROOT / "docs" / "flags.md").read_text() == flag_table.page()
