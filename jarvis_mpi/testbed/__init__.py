"""Prepare, check and rehearse machines.

`setup`, `doctor` and `stage_model` are commands. No other wing imports this one.
"""
