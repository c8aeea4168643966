"""What commands run on: ranks, the run folder, whole files, random streams, devices, the log."""
