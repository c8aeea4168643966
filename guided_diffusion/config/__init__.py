"""Settings: one declaration each, and the parser and the dicts of defaults that follow from it."""
