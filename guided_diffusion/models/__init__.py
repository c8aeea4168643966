"""Trained models: build from settings, save, load, convert, explain a mismatch by its flag."""
