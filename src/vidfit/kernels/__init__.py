"""The formulas of `models/` made fast. A test holds each to its formula."""
