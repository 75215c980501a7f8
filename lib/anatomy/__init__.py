"""The synthetic patient and scanner behind `lib.phantom`."""
