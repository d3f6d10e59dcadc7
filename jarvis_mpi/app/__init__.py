"""Runs what a person starts: a run, a chat, a batch of prompts.

`cli` reads the command line, `end_user` and `worker` are rank 0 and the others. No other wing imports this
one.
"""
