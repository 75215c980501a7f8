"""From corrected labels to a better model."""
