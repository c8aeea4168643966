"""The body of each command: parse, assemble, iterate."""
