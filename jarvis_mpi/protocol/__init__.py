"""Every decision, pure: who runs which layers, what travels, what a silence means.
No clock, no network, no file.

`cluster` decides who runs what, `failure_detector` what a silence means, `coordinator` is the end user's side
of a run and `worker` the others'. `link` is what a network has to do for them. Others may import any file of
it.
"""
