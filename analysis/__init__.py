"""Draws figures and makes predictions from records: scripts, run as `python analysis/latency.py RUN.h5` or
`python -m jarvis_mpi analyse latency RUN.h5`.

They import one another by their bare names, since a script's folder is where Python looks first. Installed,
the folder is `jarvis_mpi.analysis`.
"""
