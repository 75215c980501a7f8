"""Where images and labels live."""
