"""Prepares and checks machines, and rehearses runs on them.

`setup`, `doctor` and `stage_model` are commands. No other wing imports this one.
"""
