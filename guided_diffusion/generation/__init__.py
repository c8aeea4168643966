"""A run of sequences: plan of stages, files, manifest, report, cost, demo."""
