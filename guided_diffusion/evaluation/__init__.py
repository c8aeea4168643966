"""Judging images: feature extractors and distances between sets."""
