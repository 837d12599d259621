"""The formulas of `models/` made fast: each is held to its formula by a test."""
