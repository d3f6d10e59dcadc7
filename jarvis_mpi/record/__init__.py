"""Every HDF5 file that is written, and its one reader. Only here is h5py named.

`writer` writes a run's record and `reader` reads it, docs/records.md says what is in it; `study_file` and `links_file` are the files of a
study and of measured links; `replay` decides again what a record says.
"""
