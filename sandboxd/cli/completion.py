"""`sandbox completion bash|zsh|fish`: the script that makes the shell complete verbs, flags and names of envs.

The script is click's; names come from the daemon's socket when one answers (`options.env_names`).
"""

import click

from sandboxd.cli.context import COMPLETE
from sandboxd.cli.render import out


@click.command
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print a shell's completion script: `source <(sandbox completion bash)`."""
    from click.shell_completion import get_completion_class  # noqa: PLC0415 - only the shell's completion needs it

    kind = get_completion_class(shell)
    assert kind is not None
    script = kind(ctx.find_root().command, {}, "sandbox", COMPLETE)
    if shell == "bash":
        # click's own source() runs bash to look at its version first; whoever pipes this into an old one sees that it fails
        out(script.source_template % script.source_vars())
    else:
        out(script.source())
