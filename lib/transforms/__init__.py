"""From HU to what the network sees, and back from its output to a label."""
