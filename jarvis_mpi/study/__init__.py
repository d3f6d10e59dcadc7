"""What each layer is worth, and what is made of that: patches for lost blocks, draft models.

`command`, `fit_patches` and `fit_draft` are commands. No other wing imports this one.
"""
