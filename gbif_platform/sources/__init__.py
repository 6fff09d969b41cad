"""Sources: what yields occurrences and media; everything after them is the same for all."""
