"""The launcher: every command by every name, lists without torch, and waiting threads."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from support.cli import ROOT, environment, launch

import guided_diffusion
from guided_diffusion.commands import launcher
from guided_diffusion.runtime import run_folder

NAMES = sorted(path.stem for path in (ROOT / "scripts").glob("*.py"))
PROGRAM = [sys.executable, "-m", "guided_diffusion"]
# Ends at the first import of torch, and tells which variables there are by then.
WATCH = """
import os, runpy, sys
class Watch:
    def find_spec(name, *_):
        if name == "torch":
            print(*(os.environ.get(key) for key in ("GOMP_SPINCOUNT", "KMP_BLOCKTIME")))
            raise SystemExit
sys.meta_path.insert(0, Watch)
"""
SCRIPT = "runpy.run_path(sys.argv[1], run_name='__main__')"
MODULE = "sys.argv[:1] = []; runpy.run_module('guided_diffusion', run_name='__main__')"
UNSET = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def module_level(name):
    return (Path(launcher.__file__).parent / f"{name}.py").read_text(encoding="utf-8")


def waiting(monkeypatch, code, *argv, **env):
    """Run a program up to its import of torch, and return what it prints then."""
    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    result = launch([sys.executable, "-c", WATCH + code, *argv], **env)
    assert result.code == 0, result.err
    return result.out.split()


def test_every_command_stands_in_a_group_and_has_a_script():
    modules = {path.stem for path in Path(launcher.__file__).parent.glob("*.py")}
    listed = " ".join(launcher.GROUPS.values()).split()
    assert sorted(listed) == NAMES == sorted(modules - {"__init__", "launcher", "flag_table"})
    assert set(launcher.SHORT_NAMES.values()) <= set(listed)
    for name in NAMES:
        text = (ROOT / "scripts" / f"{name}.py").read_text(encoding="utf-8")
        assert len(text.splitlines()) == 4 and f'run("{name}")' in text


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"]])
def test_the_list_of_commands_is_their_docstrings_first_lines_and_needs_no_torch(words):
    result = launch([*PROGRAM[:1], "-X", "importtime", *PROGRAM[1:], *words])
    assert result.code == 0 and "guided_diffusion.commands.launcher" in result.err
    assert "torch" not in result.err and "numpy" not in result.err
    short = {whole: name for name, whole in launcher.SHORT_NAMES.items()}
    for name in NAMES:
        first = ast.get_docstring(ast.parse(module_level(name))).splitlines()[0]
        assert f"  {short.get(name, name)} " in result.out and first in result.out


def test_help_and_mistakes_of_a_command_say_how_it_was_called(monkeypatch):
    for words, usage in (
        ([*PROGRAM, "train"], "usage: guided-diffusion train [--FLAG VALUE ...]"),
        ([*PROGRAM, "image_train"], "usage: guided-diffusion image_train [--FLAG VALUE ...]"),
        ([sys.executable, str(ROOT / "scripts/image_train.py")], "usage: image_train.py [--FLAG"),
    ):
        result = launch([*words, "--help"])
        assert result.code == 0 and result.out.startswith(usage)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("trian", "train"), ("image_trian", "image_train"), ("sequence", "sequences"), ("", "")],
)
def test_an_unknown_name_is_one_line_with_the_nearest(monkeypatch, capsys, name, nearest):
    monkeypatch.setattr(sys, "argv", ["guided-diffusion", name])
    with pytest.raises(SystemExit) as stop:
        launcher.main()
    found = capsys.readouterr()
    assert stop.value.code == 2 and found.out == ""
    assert found.err.count("\n") == 1 and f"got {name!r}" in found.err
    assert (f"; did you mean {nearest!r}?" in found.err) if nearest else "mean" not in found.err


def test_the_version_is_one(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["guided-diffusion", "--version"])
    launcher.main()
    assert capsys.readouterr().out == f"guided-diffusion {guided_diffusion.__version__}\n"
    assert run_folder.versions()["guided_diffusion"] == guided_diffusion.__version__


@pytest.mark.parametrize("words", [["--help"], ["train", "--help"]])
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_leaves_early_is_no_mistake(words, unbuffered):
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(
        [*PROGRAM, *words], env=environment(PYTHONUNBUFFERED=unbuffered), **pipes
    ) as process:
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == 0


@pytest.mark.parametrize("name", NAMES)
def test_threads_of_a_script_wait_shortly_before_torch_is_imported(monkeypatch, name):
    assert waiting(monkeypatch, SCRIPT, str(ROOT / "scripts" / f"{name}.py")) == ["2000", "0"]


@pytest.mark.parametrize("name", ["train", "benchmark"])
def test_threads_of_a_command_wait_shortly_before_torch_is_imported(monkeypatch, name):
    assert waiting(monkeypatch, MODULE, "guided-diffusion", name) == ["2000", "0"]


@pytest.mark.parametrize(
    ("env", "expected"),
    [
        ({"GOMP_SPINCOUNT": "7"}, ["7", "None"]),
        ({"KMP_BLOCKTIME": "5"}, ["None", "5"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["None", "None"]),
    ],
)
def test_what_the_user_says_of_waiting_stays(monkeypatch, env, expected):
    script = str(ROOT / "scripts" / "image_train.py")
    assert waiting(monkeypatch, SCRIPT, script, **env) == expected


def test_a_program_that_imports_the_package_keeps_its_environment(monkeypatch):
    code = "import guided_diffusion.commands, guided_diffusion.unet"
    assert waiting(monkeypatch, code) == ["None", "None"]
