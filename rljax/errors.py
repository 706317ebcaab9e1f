"""The error for bad input, in a module of its own that imports nothing, for what must start fast."""


class Refused(ValueError):
    """Bad input: a flag, a config, a file, a space. Its message is one line: what was wrong, and what is allowed.

    Command lines print this alone; every other error is a defect, and keeps its traceback.
    """
