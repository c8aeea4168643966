"""Trained models: build from settings, save, load, convert, name the flag behind a mismatch."""
