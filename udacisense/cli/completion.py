"""``udacisense completion``: the script that completes commands, options, their values and paths in a shell."""

from __future__ import annotations

import click

from udacisense.cli.output import Choice


@click.command("completion", short_help="Print the script that completes commands and options in your shell.")
@click.argument("shell", type=Choice(["bash", "zsh", "fish"]), metavar="SHELL")
def command(*, shell: str) -> None:
    """Print the completion script of SHELL, to be read by the shell when it starts.

    \b
    bash  add to ~/.bashrc:  eval "$(udacisense completion bash)"
    zsh   add to ~/.zshrc:   eval "$(udacisense completion zsh)"
    fish  udacisense completion fish > ~/.config/fish/completions/udacisense.fish
    """  # noqa: D301 - click reads the backspace
    from click.shell_completion import get_completion_class

    from udacisense.cli.main import cli

    found = get_completion_class(shell)
    assert found is not None, "click has one for each shell that is allowed"
    # Where a shell is too old for it, click says so on standard error.
    click.echo(found(cli, {}, "udacisense", "_UDACISENSE_COMPLETE").source())
