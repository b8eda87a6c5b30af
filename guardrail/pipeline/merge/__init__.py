"""Other runs as inputs of a merge, read as untrusted."""
