"""`vidfit fit`: from labelled videos to the best file of a number of bytes, without a recipe.

budget.py            a budget that no file can meet
dataset.py           what you gave: videos, features or shards
task.py              what is to be fitted, and the recipes of its trainings
folds.py             which videos measure a member, and which train it
portfolio.py         the members that are tried, in order, and their variations
clock.py             what the time allows
state.py             what was tried
validated.py         many videos: how members are judged
cross_validated.py   few videos: the same
choice.py            which of them go into the file, with which weights
fit.py               all of it, in order
"""
