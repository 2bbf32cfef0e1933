"""Gateways and callback receivers for the tests: each in a folder of its own, all ended by their pids."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing

import pytest

from tests.acceptance.machine import Listener, Machine

MakeMachine = Callable[..., Machine]


@pytest.fixture(scope="module")
def listener(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listener]:
    """The callback receiver of all gateways of a module."""
    with closing(Listener(tmp_path_factory.mktemp("listener"))) as made:
        yield made


@pytest.fixture
def make_machine(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Iterator[MakeMachine]:
    """Makes gateways whose callbacks go to `listener`; not started yet."""
    with ExitStack() as stack:

        def make(**settings: object) -> Machine:
            return stack.enter_context(closing(Machine(tmp_path_factory.mktemp("machine"), listener, **settings)))

        yield make


@pytest.fixture
def up(make_machine: MakeMachine) -> MakeMachine:
    """Starts `gateway up` with these settings and waits until it is ready."""
    return lambda **settings: make_machine(**settings).start().wait_ready()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, listener: Listener) -> Iterator[MakeMachine]:
    """Like `up`, but the tests of a module that ask for the same settings get the same gateway."""
    made: dict[str, Machine] = {}
    with ExitStack() as stack:

        def give(**settings: object) -> Machine:
            name = repr(sorted(settings.items()))
            if name not in made:
                machine = Machine(tmp_path_factory.mktemp("shared"), listener, **settings)
                made[name] = stack.enter_context(closing(machine)).start()
            return made[name].wait_ready()

        yield give


@pytest.fixture
def calm(shared: MakeMachine) -> Machine:
    """One gateway for all tests of a module that do it no harm."""
    return shared()
