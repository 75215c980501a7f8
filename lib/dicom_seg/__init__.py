"""DICOM SEG that keeps its meaning: a label volume with names and codes beside its CT series, and back.

`write.write_seg` and `read.read_seg` are the two ways; `source` describes the series by its headers alone. Nothing
here knows of files or servers.
"""
