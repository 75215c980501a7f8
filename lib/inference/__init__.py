"""From a volume to a label volume."""
