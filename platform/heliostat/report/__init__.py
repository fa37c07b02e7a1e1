"""Results as values, on the terminal and as a page. Neither torch nor Ray."""
