"""Every error that a user can meet and mend.

    VidfitError
    ├── DataError           a shard, record, field or vocabulary is not what it should be
    │   ├── CorruptRecordError (features/tfrecord.py)   a damaged record; --skip-corrupt skips it
    │   └── NoRecordsError (features/loader.py)   shards without a single sound record
    ├── RecipeError         a recipe has an unknown key, a wrong value or a missing file
    │   └── DivergedError (training/trainer.py)   the loss is no longer a number
    ├── ModelFileError      a member or a packed file cannot be read or does not fit the shards
    ├── BudgetError         the finished file is larger than the budget, or the budget is no number of bytes
    └── OutputError         an output exists already or cannot be written

Each message is one line that names the file, record or field and says what to do. The command line prints it
without a traceback and exits with code 2.
"""

from pydantic import ValidationError


class VidfitError(ValueError):
    """Base of every error that a user can mend."""


class DataError(VidfitError):
    """A shard, a record, a field or a vocabulary is not what it should be."""


class RecipeError(VidfitError):
    """A recipe has an unknown key, a wrong value or names something that does not exist."""


class ModelFileError(VidfitError):
    """A member or a packed file cannot be read, or does not fit the shards it is used on."""


class BudgetError(VidfitError):
    """The finished file is larger than the budget, or the budget is not a number of bytes."""


class OutputError(VidfitError):
    """An output exists already, or cannot be written."""


def reason(error: Exception) -> str:
    """What another library's exception says, in one line; of pydantic's complaints the first, with its field."""
    if not isinstance(error, ValidationError):
        return " ".join(str(error).split())
    problem = error.errors()[0]
    return ": ".join([".".join(map(str, problem["loc"])), problem["msg"].removeprefix("Value error, ")]).lstrip(": ")
