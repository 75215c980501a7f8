"""The multiclass U-Net, other networks by name, and their weights on disk."""
