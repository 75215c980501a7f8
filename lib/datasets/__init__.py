"""CT data sets that users start with: the fetched samples and LiTS."""
