"""Makes options of commands from the fields that they fill, with their types and defaults."""

import dataclasses
from collections.abc import Callable, Iterable
from enum import StrEnum
from typing import Any, TypeVar

import click

from beam_upscale.cli.options.types import choice

_Command = TypeVar("_Command", bound=Callable[..., Any])


def default_of(concern: type[Any], name: str) -> Any:
    """Returns the default of a field.

    Args:
        concern: a dataclass of options, such as `PlanOptions`.
        name: the field's name.
    """
    (field,) = (field for field in dataclasses.fields(concern) if field.name == name)
    return field.default


def field_option(
    concern: type[Any],
    name: str,
    help_text: str,
    *,
    flag: str | None = None,
    kind: click.ParamType[Any] | None = None,
    metavar: str | None = None,
) -> Callable[[_Command], _Command]:
    """Returns the option of a command that fills a field.

    A field that is False by default becomes a switch, and one of a closed set takes the names of
    its members. A default is shown, but for None, which `help_text` explains.

    Args:
        concern: a dataclass of options, such as `PlanOptions`.
        name: the field's name.
        help_text: a sentence or more.
        flag: the option's name on the command line; by default that of the field.
        kind: the type of the option's value; by default that of the field's default.
        metavar: the name of the value in the help; by default that of `kind`.
    """
    default = default_of(concern, name)
    words = flag or f"--{name.replace('_', '-')}"
    if default is False:
        return click.option(words, name, is_flag=True, help=help_text)
    if isinstance(default, StrEnum):
        kind, default = choice(type(default)), str(default)
    return click.option(
        words,
        name,
        type=kind,
        default=default,
        show_default=default is not None,
        metavar=metavar,
        help=help_text,
    )


def with_options(
    *groups: Iterable[Callable[[_Command], _Command]],
) -> Callable[[_Command], _Command]:
    """Returns a decorator that puts groups of options on a command, in the order they are named."""

    def decorate(command: _Command) -> _Command:
        for option in reversed([option for group in groups for option in group]):
            command = option(command)
        return command

    return decorate
