"""Words that a file chose, made fit for a message: one line, short, nothing that steers a terminal."""

import re
import reprlib

_QUOTING = reprlib.Repr()
_QUOTING.maxstring = _QUOTING.maxother = 120
_LONGEST = 300


def quote(name: object) -> str:
    """repr() of a name, path or shape, its middle left out where it is long."""
    return _QUOTING.repr(name)


def printable(text: str) -> str:
    """The text with a question mark in a box for each sign that would steer a terminal; line ends stay."""
    return "".join(character if character.isprintable() or character == "\n" else "\ufffd" for character in text)


def one_line(text: str) -> str:
    """At most 300 characters of `text` on one line, without colours and control characters, without a full stop."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(text.split()).rstrip(".")[:_LONGEST]


def reason(error: BaseException) -> str:
    """What an exception says, or its class where it says nothing."""
    return one_line(str(error)) or type(error).__name__
