"""Write docs/flags.md: python -m guided_diffusion.commands.flag_table > docs/flags.md"""

import dataclasses
import importlib
from collections.abc import Iterator

from ..config.settings import Settings
from ..runtime.command import Command
from .launcher import GROUPS, SHORT_NAMES

HEAD = """# Flags

Every command takes the flags of some groups; a group is a dataclass of the package, which Python
programs use as it is. `COMMAND --help` shows the same. A flag marked * may change when a run is
continued by the same command; the others may not. This page is made by
`python -m guided_diffusion.commands.flag_table > docs/flags.md`.

## Commands

| command | groups | defaults of its own |
|---|---|---|"""


def commands() -> Iterator[tuple[str, Command]]:
    """Yield the name of each command as a user types it, and the command."""
    short = {whole: name for name, whole in SHORT_NAMES.items()}
    for name in " ".join(GROUPS.values()).split():
        module = importlib.import_module(f".{name}", __package__)
        if isinstance(module.main, Command):
            yield short.get(name, name), module.main
        else:
            for kind, measurement in module.MEASUREMENTS.items():
                yield f"{name} {kind}", measurement.command()


def page() -> str:
    """Return the page as Markdown."""
    lines, groups = [HEAD], {}
    for name, command in commands():
        links = ", ".join(f"[{g.__name__}](#{g.__name__.lower()})" for g in command.groups)
        own = ", ".join(f"`--{flag} {value}`" for flag, value in command.overrides.items())
        lines.append(f"| `{name}` | {links} | {own} |")
        groups |= dict.fromkeys(command.groups)
    return "\n".join([*lines, *(line for group in groups for line in section(group))]) + "\n"


def section(group: type[Settings]) -> Iterator[str]:
    """Yield the lines of one group of settings."""
    yield f"\n## {group.__name__}\n\n{group.__doc__.splitlines()[0]}\n"
    yield "| flag | default | what it is |\n|---|---|---|"
    for field in dataclasses.fields(group):
        star, choices = "*" * field.metadata["free"], field.metadata["choices"]
        known = f" ({', '.join(f'`{choice}`' for choice in choices)})" if choices else ""
        flag = field.metadata["place"] or f"--{field.name}"
        default = "required" if field.metadata["required"] else f"`{field.default!r}`"
        yield f"| `{flag}`{star} | {default} | {field.metadata['help']}{known} |"


if __name__ == "__main__":
    print(page(), end="")
