"""What stands around MONAI Label's server: who asks, what that caller may do, and what a request may carry."""
