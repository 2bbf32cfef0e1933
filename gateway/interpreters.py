"""Interpreters: which argument of which program is run as a program itself. A list of what is known, so not of all.

Silent: lists of arguments in, the first danger out.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

SHELLS = frozenset(("sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "fish", "csh", "tcsh", "rbash"))
LANGUAGES = frozenset(
    ("python", "pypy", "perl", "ruby", "node", "nodejs", "bun", "php", "lua", "rscript", "osascript"),
)
FILTERS = frozenset(("awk", "gawk", "mawk", "nawk", "sed"))
"""Their first plain argument is the text of a program; that of shells and languages is its path."""
JOINS = frozenset(("eval", "ssh", "rsh", "watch", "parallel"))
"""They make one shell text of their arguments."""
WRAPPERS = frozenset(
    (
        *("env", "sudo", "doas", "su", "runuser", "nice", "ionice", "nohup", "timeout", "time", "setsid", "stdbuf"),
        *("xargs", "find", "flock", "strace", "chroot", "unshare", "nsenter", "exec", "command"),
        *("busybox", "toybox", "docker", "podman", "kubectl"),
    )
)
"""They start a program that is named among their arguments."""
RUNS: dict[str, tuple[str, tuple[str, ...]]] = {
    **dict.fromkeys(SHELLS, ("c", ("--command", "--init-command"))),
    **dict.fromkeys(("python", "pypy"), ("c", ())),
    **dict.fromkeys(("node", "nodejs", "bun"), ("ep", ("--eval", "--print"))),
    **dict.fromkeys(("ruby", "lua", "rscript", "osascript"), ("e", ())),
    **dict.fromkeys(("su", "runuser", "flock", "script", "psql"), ("c", ("--command", "--session-command"))),
    "perl": ("eE", ()),
    "php": ("rBRE", ("--run",)),
    "deno": ("", ("eval",)),
    "env": ("S", ("--split-string",)),
    "sed": ("e", ("--expression",)),
}
"""The options, by their letters and their long names, whose argument a program runs."""
REPEATED = FILTERS | {"perl", "ruby", "lua", "rscript", "su", "runuser", "flock", "script", "psql"}
"""Such an option may come again, or after a plain argument."""
TAKES_VALUE = frozenset(("-o", "+o", "-O", "+O", "-W", "-X", "-I", "-F", "-v", "--rcfile", "--init-file"))
VERSION = re.compile(r"[\d.-]+$")
ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=")
NUMBER = re.compile(r"[\d.]+[smhd]?")
RUN_BY_OTHERS = re.compile(
    r"PATH|IFS|ENV|PS4|SHELLOPTS|BASHOPTS|BASH_.*|PROMPT_COMMAND|LD_.*|DYLD_.*|PYTHON.*|PERL5.*|RUBY.*|NODE_OPTIONS"
    r"|GIT_.*COMMAND|GIT_SSH|GIT_PAGER|GIT_EDITOR|GIT_EXTERNAL_DIFF|GIT_CONFIG.*|EDITOR|VISUAL|PAGER|MANPAGER|BROWSER"
    r"|LESSOPEN"
)
"""Variables whose value programs run, or load as code."""


class Danger(NamedTuple):
    """A computed value that would be run: in which argument (None: stdin), why, and whether an option says so."""

    place: int | None
    reason: str
    by_option: bool = False


def find_danger(arguments: Sequence[str], computed: Sequence[bool], stdin_computed: bool) -> Danger | None:
    """The first computed argument that a program known to us would run. `computed` says which hold a computed value."""
    wrapped = _name(arguments[0]) in WRAPPERS
    for start in range(len(arguments)):
        known = not start or wrapped
        found = _find_at(arguments, computed, start, stdin_computed and known)
        # Elsewhere an interpreter's name may be anything, as in `apt install bash`; but not with its -c.
        if found is not None and (known or found.by_option):
            return found
    return None


def is_interpreter(program: str) -> bool:
    """Whether its further arguments are a script's, which says itself what they mean."""
    return _name(program) in SHELLS | LANGUAGES


def _find_at(arguments: Sequence[str], computed: Sequence[bool], start: int, stdin_computed: bool) -> Danger | None:
    name = _name(arguments[start])
    rest = [(index, arguments[index], computed[index]) for index in range(start + 1, len(arguments))]
    if name in JOINS:
        return next((Danger(index, f"{name} makes one text of its arguments") for index, _, is_ in rest if is_), None)
    if name in WRAPPERS and (found := _computed_program(name, rest)):
        return found
    if name in RUNS or name in FILTERS:
        return _Reading(name, stdin_computed).find(rest)
    return None


def _computed_program(name: str, rest: list[tuple[int, str, bool]]) -> Danger | None:
    for index, argument, is_computed in rest:
        assignment = ASSIGNMENT.match(argument)
        if assignment:
            if is_computed and RUN_BY_OTHERS.fullmatch(assignment[1]):
                return Danger(index, f"programs run or load what {assignment[1]} holds")
        elif is_computed:
            return Danger(index, f"{name} would start the program that it names")
        elif not argument.startswith("-") and not NUMBER.fullmatch(argument):
            return None
    return None


class _Reading:
    """One interpreter's arguments, read as it reads them."""

    def __init__(self, name: str, stdin_computed: bool) -> None:
        self._name = name
        self._letters, self._words = RUNS.get(name, ("", ()))
        self._takes_script = name in SHELLS or name in LANGUAGES or name in FILTERS
        self._stdin_computed = stdin_computed
        self._expected = False  # an option said that a program follows
        self._seen = False  # it has its program

    def find(self, rest: list[tuple[int, str, bool]]) -> Danger | None:
        is_value = False
        for index, argument, is_computed in rest:
            if is_value:
                is_value = False
            elif self._is_option(argument):
                is_value = argument in TAKES_VALUE
                if is_computed and not argument.startswith("-v"):
                    return Danger(index, f"{self._name} reads it as an option of its own", by_option=True)
                if self._name in SHELLS and re.fullmatch(r"-[a-z]*s[a-z]*", argument) and "c" not in argument:
                    return self._judge_stdin()
                self._expected = self._expected or self._runs(argument)
            elif argument in self._words:
                self._expected = True
            elif argument == "-" and not self._expected:
                return self._judge_stdin()
            elif self._is_program() and is_computed:
                return Danger(index, self._reason(), self._expected)
            elif self._is_last():
                return None
            else:
                self._seen, self._expected = self._seen or self._is_program(), False
        return None if self._seen else self._judge_stdin()

    def _is_option(self, argument: str) -> bool:
        # Only a shell looks for more options between its -c and the text.
        return len(argument) > 1 and argument[0] in "-+" and (not self._expected or self._name in SHELLS)

    def _runs(self, argument: str) -> bool:
        if argument.startswith("--"):
            return argument.partition("=")[0] in self._words
        return any(letter in argument[1:] for letter in self._letters)

    def _is_program(self) -> bool:
        return self._expected or (self._takes_script and not self._seen)

    def _is_last(self) -> bool:
        """Whether all that follows is the program's own."""
        return self._name not in REPEATED

    def _judge_stdin(self) -> Danger | None:
        if self._stdin_computed and self._takes_script and self._name not in FILTERS:
            return Danger(None, f"{self._name} without a file runs its stdin")
        return None

    def _reason(self) -> str:
        if self._expected:
            return f"{self._name} runs what follows its option"
        what = "its first argument" if self._name in FILTERS else "the file that its first argument names"
        return f"{self._name} runs {what}"


def _name(program: str) -> str:
    """`/usr/bin/python3.11` is python."""
    return VERSION.sub("", program.rpartition("/")[2].lower())
