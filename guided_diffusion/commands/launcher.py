"""Run commands by name: guided-diffusion COMMAND [--FLAG VALUE ...]

COMMAND --help lists the flags of one. The script of a command in scripts/ does the same.
"""

import importlib
import os
import sys

from .. import __version__

PROGRAM = "guided-diffusion"
GROUPS = {
    "main commands": "image_train image_sample frequency_generating_m_samples evaluate",
    "evidence": "severity_along_sequences compare_depths ablate_attention benchmark",
    "tools": "make_tissue convert_checkpoint",
    "guided-diffusion's other commands": (
        "classifier_train classifier_sample super_res_train super_res_sample image_nll"
    ),
    "DDIB's": "imagenet_translation synthetic_train synthetic_sample synthetic_translation "
    "synthetic_cycle",
}
SHORT_NAMES = {
    "train": "image_train",
    "sample": "image_sample",
    "sequences": "frequency_generating_m_samples",
}
# Threads of OpenMP wait for one another for milliseconds without letting go of their cores. Beside
# busy neighbours the awaited thread has no core meanwhile, and everything takes many times longer.
# So the wait is kept short: in rounds of a loop (GNU's runtime) or milliseconds (LLVM's, Intel's).
WAITING = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "0"}


def main() -> None:
    """Run the command that the command line names first, or list all commands."""
    _begin()
    name, *flags = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help", "help"):
        print(overview(), flush=True)
    elif name in ("-V", "--version"):
        print(PROGRAM, __version__)
    else:
        sys.argv = [f"{PROGRAM} {name}", *flags]
        run(name)


def run(name: str) -> None:
    """Run one command with the flags of the command line.

    Environment variables are checked, and the ones about waiting threads set, before torch loads
    OpenMP; where the user has set one of the latter, all stay as they are.

    Args:
        name: short or whole name of the command.
    """
    _begin()
    from ..errors import UserError
    from ..runtime import environment

    name = SHORT_NAMES.get(name, name)
    known = " ".join(GROUPS.values()).split()
    if name not in known:
        import difflib

        near = difflib.get_close_matches(name, [*SHORT_NAMES, *known], 1)
        hint = "".join(f"; did you mean {one!r}?" for one in near)
        text = f"expected a command, got {name!r}{hint} ({PROGRAM} --help lists all commands)"
        print(f"error: {text}", file=sys.stderr)
        raise SystemExit(2)
    try:
        environment.check()
    except UserError as error:
        print("error:", error.report, file=sys.stderr)
        raise SystemExit(2) from None
    if not os.environ.keys() & {"OMP_WAIT_POLICY", *WAITING}:
        os.environ |= WAITING
    importlib.import_module(f".{name}", __package__).main()


def _begin() -> None:
    """Have signals and streams that end early told in one line, or in none."""
    import signal

    def end(*_: object) -> None:
        os.write(2, b"interrupted\n")
        os._exit(130)

    # Before anything else is loaded, as the import of a module would end in a traceback.
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, end)
    from ..runtime import console, stop_requests

    stop_requests.begin()
    console.secure()


def overview() -> str:
    """Return the list of all commands in groups, each with the first line of its docstring."""
    import ast
    from pathlib import Path

    short = {whole: name for name, whole in SHORT_NAMES.items()}
    found = [__doc__]
    for heading, names in GROUPS.items():
        found.append(f"{heading}:")
        for name in names.split():
            text = (Path(__file__).parent / f"{name}.py").read_text(encoding="utf-8")
            line = ast.get_docstring(ast.parse(text)).splitlines()[0]
            found.append(f"  {short.get(name, name):25} {line}")
        found.append("")
    others = ", ".join(f"{whole} for {name}" for name, whole in SHORT_NAMES.items())
    return "\n".join([*found, f"Names of scripts work too: {others}."])
