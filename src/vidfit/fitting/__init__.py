"""`vidfit fit`: from labelled videos to the best file of a number of bytes, without a recipe.

dataset.py     what you gave: videos, features or shards
folds.py       which videos measure a member, and which train it
portfolio.py   the members that are tried, in order
clock.py       what the time allows
choice.py      which of them go into the file, with which weights
fit.py         all of it, in order
"""
