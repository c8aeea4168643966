"""Run a command by its name: `python -m guided_diffusion COMMAND [--FLAG VALUE ...]`."""

from .commands.launcher import main

if __name__ == "__main__":
    main()
