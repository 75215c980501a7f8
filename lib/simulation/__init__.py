"""Active learning played through with phantom patients and an annotator who knows the truth."""
