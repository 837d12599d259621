"""A run on one page, from the files of its folder."""
