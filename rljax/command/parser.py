"""A parser of flags whose errors are one line."""

import argparse
import json
import sys
from typing import Any, NoReturn

from rljax.errors import Refused


class Parser(argparse.ArgumentParser):
    """`argparse`'s, without abbreviations of flags; bad input ends with one line and exit code 2."""

    def __init__(self, prog: str, description: str):
        super().__init__(prog=prog, description=description, allow_abbrev=False)

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}; {self.prog} --help says what is allowed", file=sys.stderr)
        sys.exit(2)


def options_of(texts: list[str]) -> dict[str, Any]:
    """Options of `rljax.make` from NAME=VALUE: a value is JSON (0.5, true, [1, 2]), or else the text itself.

    Raises:
      Refused: a text without an equals sign, or without a name before it.
    """
    options = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not (equals and name.isidentifier()):
            raise Refused(f"--env-option {text!r} is not allowed; it must look like reset_noise_scale=0.1")
        try:
            options[name] = json.loads(value)
        except ValueError:
            options[name] = value
    return options
