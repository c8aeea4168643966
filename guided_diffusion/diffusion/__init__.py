"""The process: schedules, forward and reverse, losses, single moves, loops over them, solvers."""
