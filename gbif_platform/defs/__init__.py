"""What is defined in the package itself: the datasets that ship."""
