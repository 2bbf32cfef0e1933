"""`shell` steps as definitions: what they may say, and what would hand a computed value to an interpreter."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.advice import warn_of_options
from gateway.configuration import read_configuration
from gateway.errors import ConfigError
from gateway.places import Mistakes
from gateway.shells import argument_of, cap_of, read_size
from gateway.workflows import Workflow, prepare

X = "${input.x}"


def workflow(shell: Any, **fields: Any) -> Workflow:
    return prepare({"name": "w", "steps": [{"id": "a", "shell": shell} | fields]})


def mistake(shell: Any, **fields: Any) -> tuple[str, str]:
    with pytest.raises(ConfigError) as caught:
        workflow(shell, **fields)
    return str(caught.value.details["path"]), caught.value.message


def test_the_short_form_is_a_list_of_arguments() -> None:
    """`shell: [git, status]` says the same as `shell: {argv: [git, status]}`."""
    short, long = workflow(["git", "status"]).steps["a"], workflow({"argv": ["git", "status"]}).steps["a"]
    assert (
        short.argument.render({}) == long.argument.render({}) == {"argv": ["git", "status"], "stdin": None, "env": {}}
    )


def test_values_reach_a_program_as_arguments_stdin_and_variables() -> None:
    """Each of the three places takes expressions, numbers as they are."""
    step = workflow({"argv": ["show", X, 5], "stdin": "${input}", "env": {"NAME": "a${input.x}"}}).steps["a"]
    rendered = step.argument.render({"input": {"x": "; rm"}})
    assert rendered == {"argv": ["show", "; rm", 5], "stdin": {"x": "; rm"}, "env": {"NAME": "a; rm"}}


@pytest.mark.parametrize(
    ("shell", "path", "words"),
    [
        ([], "steps[0].shell", "needs a program"),
        ([""], "steps[0].shell", "needs a program"),
        ([X, "a"], "steps[0].shell[0]", "can't be computed"),
        ({"argv": [f"/opt/{X}/run"]}, "steps[0].shell.argv[0]", "can't be computed"),
        (["printf", "a\0b"], "steps[0].shell[1]", "NUL"),
        ({"argv": ["a"], "cwd": f"/srv/{X}"}, "steps[0].shell.cwd", "absolute folder"),
        ({"argv": ["a"], "cwd": "srv"}, "steps[0].shell.cwd", "absolute folder"),
        ({"argv": ["a"], "codes": []}, "steps[0].shell.codes", "0 to 255"),
        ({"argv": ["a"], "codes": [256]}, "steps[0].shell.codes", "0 to 255"),
        ({"argv": ["a"], "cap": "much"}, "steps[0].shell.cap", "no size"),
        ({"argv": ["a"], "cap": 0}, "steps[0].shell.cap", "no size"),
        ({"argv": ["a"], "env": {"A-B": "1"}}, "steps[0].shell.env.A-B", "letters, digits"),
        ({"argv": ["a"], "env": {"GATEWAY_STEP": "1"}}, "steps[0].shell.env.GATEWAY_STEP", "not GATEWAY_"),
        (
            {"argv": ["a"], "env": {"A": {"vault": "x"}}},
            "steps[0].shell.env.A",
            "{env: NAME}, {file: PATH} or {secret: NAME}",
        ),
        (
            {"argv": ["a"], "env": {"A": {"env": X}}},
            "steps[0].shell.env.A",
            "{env: NAME}, {file: PATH} or {secret: NAME}",
        ),
        ({"argv": ["a"], "env": {"LD_PRELOAD": X}}, "steps[0].shell.env.LD_PRELOAD", "run or load"),
        ({"argv": ["a"], "env": {"BASH_ENV": X}}, "steps[0].shell.env.BASH_ENV", "run or load"),
        ("git status", "steps[0].shell", "Expected"),
    ],
)
def test_what_can_not_be_started_is_refused_with_its_field(shell: Any, path: str, words: str) -> None:
    """A definition that could never run is refused before there is a run, with the field and what to do."""
    assert mistake(shell)[0] == path
    assert words in mistake(shell)[1]


@pytest.mark.parametrize(
    ("arguments", "place"),
    [
        (["sh", "-c", f"echo {X}"], 2),
        (["/bin/bash", "-ec", f"echo {X}"], 2),
        (["bash", "-o", "pipefail", "-c", f"echo {X}"], 4),
        (["bash", "-c", "-e", X], 3),
        (["zsh", f"-c{X}"], 1),
        (["fish", f"--command={X}"], 1),
        (["sh", X], 1),
        (["python3", "-c", f"print('{X}')"], 2),
        (["/usr/bin/python3.11", "-Ic", X], 2),
        (["python3", "-m", X], 2),
        (["perl", "-e", X], 2),
        (["perl", "-ne", "1", "-e", X], 4),
        (["ruby", "-e", X], 2),
        (["node", "--eval", X], 2),
        (["deno", "eval", X], 2),
        (["php", "-r", X], 2),
        (["awk", f"/{X}/"], 1),
        (["sed", f"s/a/{X}/"], 1),
        (["sed", "-n", "-e", "p", "-e", X], 5),
        (["eval", X], 1),
        (["ssh", "host", "ls", X], 3),
        (["env", "A=1", "bash", "-c", X], 4),
        (["env", "-S", X], 2),
        (["env", f"BASH_ENV={X}", "bash", "run.sh"], 1),
        (["env", X], 1),
        (["sudo", "-n", X], 2),
        (["timeout", "5", "sh", "-c", X], 4),
        (["xargs", "sh", "-c", X], 3),
        (["su", "deploy", "-c", X], 3),
        (["flock", "/tmp/lock", "-c", X], 3),
        (["docker", "run", "image", "sh", "-c", X], 5),
        (["my-wrapper", "bash", "-c", X], 3),
        (["find", ".", "-exec", "sh", "-c", X, ";"], 5),
    ],
)
def test_a_computed_value_in_a_programs_text_is_refused(arguments: list[str], place: int) -> None:
    """Untrusted values never become part of a text that an interpreter runs; the message says how else to pass them."""
    path, message = mistake(arguments)
    assert path == f"steps[0].shell[{place}]"
    assert "untrusted values that would reach a shell as text" in message
    assert "further argument" in message


@pytest.mark.parametrize("program", [["sh"], ["bash", "-s", "x"], ["python3", "-"], ["env", "bash"], ["perl", "-w"]])
def test_computed_stdin_of_an_interpreter_is_refused(program: list[str]) -> None:
    """A shell without a file runs what it reads from stdin."""
    path, message = mistake({"argv": program, "stdin": X})
    assert path == "steps[0].shell.stdin"
    assert "runs its stdin" in message


@pytest.mark.parametrize(
    "shell",
    [
        ["sh", "-c", 'echo "$1"', "sh", X],
        ["bash", "-euo", "pipefail", "-c", 'echo "$1"', "bash", X],
        ["bash", "deploy.sh", X],
        ["python3", "-c", "import sys; print(sys.argv[1])", X],
        ["python3", "-m", "judge", X],
        {"argv": ["sh", "-c", 'echo "$NAME"'], "env": {"NAME": X}, "stdin": X},
        {"argv": ["python3", "judge.py"], "stdin": X},
        {"argv": ["jq", "-r", ".a"], "stdin": X},
        ["git", "fetch", "--", X],
        ["awk", "-v", f"x={X}", "{print x}", "file"],
        ["sed", "-n", "p", X],
        ["apt-get", "install", "bash", X],
        ["env", f"NAME={X}", "printenv"],
        ["timeout", "5", "git", "fetch", X],
        ["sh", "-c", "echo $${HOME}"],
        ["echo", "-e", X],
    ],
)
def test_values_beside_a_programs_text_are_allowed(shell: Any) -> None:
    """What stays an argument, a variable or plain input of a program may be computed."""
    assert workflow(shell).steps["a"].kind == "shell"


@pytest.mark.parametrize(
    ("text", "size"), [(10, 10), ("10", 10), ("1MB", 1_000_000), ("64kB", 64_000), ("4MiB", 4_194_304), ("1.5k", 1500)]
)
def test_sizes_are_read_as_people_write_them(text: int | str, size: int) -> None:
    """Numbers are bytes; k, M and G are thousands, Ki, Mi and Gi are 1024s."""
    assert read_size(text) == size


def test_a_cap_is_never_above_the_workers() -> None:
    """GATEWAY_MAX_OUTPUT bounds what a step may ask for."""
    step = workflow({"argv": ["a"], "cap": "2MB"}).definition.steps[0].shell
    assert not isinstance(step, list)
    assert (cap_of(step, 1000), cap_of(step, 3_000_000)) == (1000, 2_000_000)  # type: ignore[arg-type]


def test_isolate_is_for_python_steps() -> None:
    """`isolate` on another kind is refused, and knows only `process`."""
    assert mistake(["true"], isolate="process")[0] == "steps[0].isolate"
    with pytest.raises(ConfigError, match="thread"):
        prepare({"name": "w", "steps": [{"id": "a", "python": "m:f", "isolate": "thread"}]})


def test_what_may_hold_expressions_is_only_what_reaches_the_program() -> None:
    """The constants of a step are not among its templates."""
    assert set(argument_of(["a"])) == {"argv", "stdin", "env"}


# ---- in gateway.yaml

FILE = """\
workflows:
  - name: w
    steps:
      - id: a
        shell: [git, fetch, "${input.ref}"]
      - id: b
        python: reviews.judge:run
"""


def test_modules_outside_of_the_list_are_refused_with_their_line() -> None:
    """`gateway check` says which step uses a module that this installation does not allow."""
    with pytest.raises(Mistakes) as caught:
        read_configuration(FILE, ("reviews.plain", "judge"))
    (found,) = caught.value.mistakes
    assert (found.line, found.path) == (7, "workflows[0].steps[1].python")
    assert "'reviews.judge' is not among those that steps may use: reviews.plain, judge" in found.message
    assert len(read_configuration(FILE, ("reviews",)).workflows) == 1


def test_an_argument_that_may_come_out_as_an_option_is_warned_of() -> None:
    """A computed argument without `--` before it is no mistake, but worth a word."""
    (warning,) = warn_of_options(read_configuration(FILE))
    assert "step 'a'" in warning
    assert warn_of_options(read_configuration(FILE.replace("fetch,", "fetch, --,"))) == []
    assert warn_of_options(read_configuration(FILE.replace("[git, fetch,", "[bash, deploy.sh,"))) == []


def test_a_danger_is_told_with_its_line() -> None:
    """The line of a refused step is in the message of `gateway check`."""
    with pytest.raises(Mistakes) as caught:
        read_configuration(FILE.replace("[git, fetch,", "[sh, -c,"))
    assert (caught.value.mistakes[0].line, caught.value.mistakes[0].path) == (5, "workflows[0].steps[0].shell[2]")
