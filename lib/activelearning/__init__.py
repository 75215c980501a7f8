"""Which image next: scores (what a model thinks of an image) apart from strategies (who is chosen, and why)."""
