"""Measuring the project itself: time, memory, accuracy, ablations. Nothing else imports it."""
