"""Writes and reads every HDF5 file. Only this wing names h5py.

`writer` writes a run's record through `record_file`; docs/records.md describes it. `reader.load` reads it
into a `run.Run`, by way of `tables`, `questions` and `fault_costs`; `repair.mend` repairs one that was cut
off. `study_file` and `links_file` are the files of a study and of measured links; `replay` makes a run's
decisions again from its record.
"""
