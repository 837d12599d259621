"""A trained run, fitted to any number of bytes: candidates, the search over them, the frontier."""
