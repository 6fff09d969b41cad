"""Storage: the lake, its tables and the object store; the only room that writes."""
