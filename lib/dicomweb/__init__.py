"""A PACS over DICOMweb: look for series, fetch them once, store objects; nothing is known here of what is in them."""
