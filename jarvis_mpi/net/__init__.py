"""Starts a run's processes, joins them by MPI, and ends them. Only this wing names mpi4py.

`mpi_link` is protocol.link over MPI; `launch_agents` are what mpirun starts on other hosts; `handshake`,
`plan` and `shutdown` are a run's first and last messages; `logged_link` logs each message; `sealed_link`
encrypts it with the key that `run_key` hands out. There is no code here: each rank's start pays for it.
"""
