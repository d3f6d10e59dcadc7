"""The processes of a run: launched, greeted, joined by MPI, parted. Only here is mpi4py named.

`mpi_link` is protocol.link over MPI; `launch_agents` are what mpirun starts on other hosts; `handshake`, `plan` and `shutdown` are a
run's first and last messages. There is no code here: each rank's start pays for it.
"""
