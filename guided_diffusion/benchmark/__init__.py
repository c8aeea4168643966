"""Measuring the project itself: time, memory, accuracy, ablations. Nothing else imports it.

A measurement is a function from settings to the record to keep. It raises `UserError` if the
settings or the files that they name do not fit, or if a command that it runs fails.
"""
