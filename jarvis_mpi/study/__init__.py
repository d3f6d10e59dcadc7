"""Measure what each layer is worth; fit patches for lost blocks and draft models.

`command`, `fit_patches` and `fit_draft` are commands. No other wing imports this one.
"""
