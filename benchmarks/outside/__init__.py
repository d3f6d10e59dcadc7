"""Faults from outside only, at moments of the protocol, over a run's whole life: `make faults-outside`.

- `evidence`: what anybody can see of a run: records through plain h5py, the process table, memory
- `facts`, `auditor`: the rules, and whether a run kept them; no code of the program or of other benchmarks
- `cases`: draws a run and its faults from a seed and a number
- `moments`: tells when a moment has come
- `strikes`: brings a fault on
- `live`: one run under way
- `report`: what a campaign counts
"""
