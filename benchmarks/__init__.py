"""Measurements: every number on the pages of docs/ comes from one of these, run as
`python -m benchmarks.speed.decode` in a checkout.

- `speed`: tokens/s, the time of a hop, of a start; beside transformers.generate, llama.cpp, another tree, and
  predictions
- `memory`: what ranks, patches and the record take, in bytes, and in time beside that
- `faults`: every fault at every place; false alarms, takeovers, resumed runs; llama.cpp under the same
  signals
- `outside`: faults from outside, several a run, at moments of the protocol, each run judged by an auditor
- `quality`: what lost blocks, patches and few bits do to a text; that drafts and streams do nothing to it
- `data`: texts and questions that these need, fetched or made
- `figures`: the pictures in docs/figures, from runs of its own

Each tells with --help what it does and what it can be asked for; most print a table, and JSON in the last
line. What was measured with which, and where it is told: docs/lab-book.md. Shared: `chain` (a run's command
line), `shapes` (models), `llama` (llama.cpp).
"""

from pathlib import Path

ROOT = Path(__file__).parent.parent
