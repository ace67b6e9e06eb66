"""One suite over every implementation of an interface."""
