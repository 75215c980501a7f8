"""What LiverLoop adds to the MONAI Label server."""
