"""What all commands share: parsers, the one line that an error is, and exit codes.

0 is done, 1 something failed on the way, 2 wrong use: an option, or a file that cannot be used. Ctrl-C ends a command
with 130, a reader of its output that goes away with 141. What imports this imports nothing but the standard library.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import select
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn, TextIO

DONE, FAILED, WRONG_USE = 0, 1, 2
INTERRUPTED = 128 + signal.SIGINT
CLOSED_PIPE = 128 + signal.SIGPIPE

Main = Callable[[list[str], str], int]
"""A command: its arguments and what it is called -> its exit code."""

_ALSO_CALLED = {"--point": "--click", "--points": "--click"}
"""Options as other programs call them."""

_PLACE = r"((\d+:)?((fg|bg):)?[-+\d.:]+),?"
"""A word of a box or a click, where spaces stand for the commas or beside them."""

_MISTAKEN_PATH = (FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError)
"""What the operating system says of a path that should not have been given; anything else went wrong on the way."""


class _HelpFormatter(argparse.HelpFormatter):
    """Keeps the lines of an epilog, and says the defaults."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "\n".join(indent + line for line in text.splitlines())

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        unsaid = action.option_strings and action.default not in (None, False, argparse.SUPPRESS)
        if not unsaid or "default" in text or isinstance(action.default, (list, tuple, dict)):
            return text
        return f"{text} (default: %(default)s)".strip()


class Parser(argparse.ArgumentParser):
    """A parser that takes options and other arguments in any order, and refuses in one line, with exit code 2.

    Args:
        prog: what the command is called.
        description: what it does; a docstring, which is None where Python leaves them out (``-OO``), is taken as well.
        example: command lines that the help ends with, without ``prog``.
    """

    def __init__(self, prog: str, description: str | None, *example: str) -> None:
        lines = ["examples:" if len(example) > 1 else "example:", *(f"  {prog} {line}" for line in example)]
        epilog = "\n".join(lines) if example else None
        description = " ".join((description or "").split())
        super().__init__(prog, description=description, epilog=epilog, formatter_class=_HelpFormatter)
        self._typed: list[str] = []

    def parse_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        self._typed = list(sys.argv[1:] if args is None else args)
        return self.parse_intermixed_args(self._typed, namespace)

    def parse_known_args(self, args: Iterable[str] | None = None, namespace: Any = None) -> Any:
        args = list(sys.argv[1:] if args is None else args)
        self._typed = self._typed or args  # Some Pythons call it from parse_args, twice, with what is left.
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        meant = "".join(dict.fromkeys((*map(self._meant, self._typed), *self._meant_as_one_word())))
        fail(f"{' '.join(message.split())}{meant}; see {self.prog} --help")
        raise SystemExit(WRONG_USE)

    def _meant(self, word: str) -> str:
        """The option that a mistyped one may stand for, as a clause; nothing for any other word."""
        name = word.partition("=")[0]
        known = list(self._option_string_actions)
        if not re.match(r"--?[A-Za-z]", name) or any(option.startswith(name) for option in known):
            return ""
        if _ALSO_CALLED.get(name) in known:
            return f"; did you mean {_ALSO_CALLED[name]} for {name}?"
        return _did_you_mean(name, [option for option in known if option.startswith("--")])

    def _meant_as_one_word(self) -> Iterator[str]:
        """Of each option that three words of a place follow, a clause with the one word that they are to be."""
        words = [part for word in self._typed for part in (word.split("=", 1) if word.startswith("--") else [word])]
        for option, *place in zip(words, words[1:], words[2:], words[3:]):
            found = [re.fullmatch(_PLACE, word) for word in place]
            if option.startswith("--") and all(found):
                yield f"; did you mean {option} {','.join(each[1] for each in found if each)}, without spaces?"


def choose(
    prog: str, description: str, commands: Mapping[str, tuple[str, Main | str]], arguments: Sequence[str], *example: str
) -> int:
    """Runs the one of several commands that the first word names.

    Args:
        commands: name -> what it does, and the function that does it; one that is given as ``module:function`` is
            imported when it is asked for.
        example: as in :class:`Parser`.

    Returns:
        its exit code.
    """
    width = max(map(len, commands)) + 2
    parser = Parser(prog, description, *example)
    parser.usage = f"{prog} COMMAND …"
    listed = "\n".join(f"  {name:{width}}{what}" for name, (what, _) in commands.items())
    parser.epilog = f"commands (each has its own --help):\n{listed}" + (f"\n\n{parser.epilog}" if example else "")
    if not arguments or arguments[0].startswith("-"):
        parser.parse_args(arguments)
        parser.error(f"expected a command: {', '.join(commands)}")
    name, *rest = arguments
    if name not in commands:
        parser.error(f"{name}: no such command{_did_you_mean(name, list(commands))}; expected {', '.join(commands)}")
    target = commands[name][1]
    if isinstance(target, str):
        module, _, function = target.partition(":")
        target = getattr(importlib.import_module(module), function)
    return target(rest, f"{prog} {name}")


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    import difflib  # Mistakes alone need it.

    close = difflib.get_close_matches(word.lower(), known, n=1)
    return f"; did you mean {close[0]} for {word}?" if close else ""


def run(action: Callable[[], int | None], *refusals: type[Exception]) -> int:
    """Runs a command to its end, and turns how it ended into an exit code and at most one line.

    Args:
        action: what is to be done; returns its exit code, or None for 0.
        refusals: exceptions that mean wrong use; their text is the line.
    """
    try:
        return action() or DONE
    except BrokenPipeError as error:
        if not _unread():
            return fail(f"{error.strerror}: another process has ended")
        return CLOSED_PIPE  # As other programs end: whoever closed the pipe wants no more lines.
    except KeyboardInterrupt:
        print_line("interrupted", sys.stderr)
        return INTERRUPTED
    except refusals as error:
        return fail(_described(error), WRONG_USE)
    except OSError as error:
        return fail(_described(error), exit_code_of(error))
    finally:
        _unread()


def leave(code: int) -> NoReturn:
    """Ends the process, without waiting for a computation that still runs in a thread, as after a deadline."""
    _unread()
    if any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread()):
        os._exit(code)
    sys.exit(code)


def fail(message: str, code: int = FAILED) -> int:
    """Prints the line that an error is; returns the exit code, 1 unless another is given."""
    print_line(f"error: {message}", sys.stderr)
    return code


def exit_code_of(error: OSError) -> int:
    """Returns 2 for a path that should not have been given, 1 for what went wrong on the way, as a full disk."""
    return WRONG_USE if isinstance(error, _MISTAKEN_PATH) else FAILED


def print_line(message: str, stream: TextIO | None = None) -> None:
    """One line for people, whatever the names in it hold: line breaks and what cannot be encoded are written out."""
    stream = stream or sys.stdout
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in message)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    with suppress(OSError):  # A closed pipe or a full disk behind it must not cost a case its output.
        print(line.encode(encoding, "backslashreplace").decode(encoding), file=stream, flush=True)


def print_traceback(error: Exception) -> None:
    """All of an error, on stderr, line by line."""
    for line in "".join(traceback.format_exception(error)).splitlines():
        print_line(line, sys.stderr)


def above_zero(text: str) -> float:
    """An option's number.

    Raises:
        argparse.ArgumentTypeError: no number, or not above 0.
    """
    with suppress(ValueError):
        if (number := float(text)) > 0:  # Nor is nan.
            return number
    raise argparse.ArgumentTypeError(f"{text}: expected a number above 0")


def _described(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return str(error) or type(error).__name__


def _unread() -> bool:
    """Whether nobody reads the output. What is left of it then goes nowhere: the interpreter's end would complain."""
    unread = False
    for stream in filter(None, (sys.stdout, sys.stderr)):  # They are None where they were closed from the start.
        with suppress(OSError, ValueError):  # Not every stream is a file of the operating system's.
            ended = select.poll()
            ended.register(stream.fileno(), 0)
            unread |= bool(ended.poll(0))
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return unread
