"""What faults do: of processes (live_run.py, signalled.py) and of whole hosts, each run judged against what
its row expects (rows.py)."""
