"""Every HDF5 file that is written, and its one reader. Only here is h5py named.

`writer` writes a run's record through `record_file`; docs/records.md says what is in it. `reader.load` reads it into a `run.Run`, by way of
`tables`, `questions` and `fault_costs`; `repair.mend` makes a cut-off one whole. `study_file` and `links_file` are the files of a study
and of measured links; `replay` decides again what a record says.
"""
