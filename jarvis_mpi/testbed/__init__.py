"""Prepares and checks machines, and rehearses runs on them.

`setup`, `doctor`, `stage_model` and `rehearse` are commands. `own_hosts` and `own_slurm` make testbeds on one
machine, for tests and benchmarks too; what breaks them is in `own_links` and `own_processes`. No other wing
imports this one.
"""
