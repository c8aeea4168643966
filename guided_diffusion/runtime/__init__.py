"""The runtime of commands: ranks, run folders, files, random streams, devices, the log."""
