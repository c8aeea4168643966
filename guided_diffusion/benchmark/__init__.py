"""Measuring the project itself: time, memory, accuracy, ablations. Nothing else imports it.

A measurement is a function from settings to a record, a dictionary that can be written as JSON. It
raises `UserError` if the settings or the files that they name do not fit, or a command fails.
"""
