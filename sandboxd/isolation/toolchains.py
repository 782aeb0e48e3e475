"""Which directories of a home a program on PATH needs: paths in, paths out.

Pure. A home is private inside, but compilers and interpreters that a person installed below it have to run. Only what is
known to hold programs is named, never a directory that also keeps credentials: of ~/.cargo its bin, not its credentials.toml.
"""

import posixpath

# First names below the home -> what is shown. "" stands for the whole directory of that name.
KNOWN: dict[str, tuple[str, ...]] = {
    ".cargo": (".cargo/bin", ".rustup"),
    ".rustup": (".rustup",),
    ".local/bin": (".local/bin", ".local/lib"),
    ".local/lib": (".local/lib",),
    "go": ("go/bin",),
    ".deno": (".deno/bin",),
    ".bun": (".bun/bin", ".bun/install/global"),
    ".yarn": (".yarn/bin",),
    ".config/yarn": (".config/yarn/global",),
    **{name: (name,) for name in (".pyenv", ".rbenv", ".nodenv", ".goenv", ".nvm", ".fnm", ".volta", ".asdf", ".sdkman")},
    **{name: (name,) for name in (".npm-global", ".dotnet", ".ghcup", ".elan", ".juliaup", ".linuxbrew", ".nix-profile")},
    **{
        name: (name,)
        for name in (".miniconda3", "miniconda3", "anaconda3", "miniforge3", ".poetry/bin", ".local/share/JetBrains")
    },
    **{
        f".local/share/{name}": (f".local/share/{name}",)
        for name in ("uv", "pipx", "mise", "fnm", "pnpm", "rtx", "rye", "virtualenvs")
    },
}

# What a real home must never show, file or directory.
SECRETS = (
    *(".ssh", ".aws", ".azure", ".gnupg", ".kube", ".docker", ".oci", ".netrc", ".npmrc", ".yarnrc", ".yarnrc.yml", ".pypirc"),
    *(
        ".git-credentials",
        ".vault-token",
        ".pgpass",
        ".my.cnf",
        ".s3cfg",
        ".boto",
        ".terraform.d",
        ".terraformrc",
        ".password-store",
    ),
    *(".bash_history", ".zsh_history", ".python_history", ".psql_history", ".mysql_history", ".node_repl_history", ".lesshst"),
    *(".cargo/credentials", ".cargo/credentials.toml", ".gem/credentials", ".m2/settings.xml", ".gradle/gradle.properties"),
    *(".config/gcloud", ".config/gh", ".config/hub", ".config/op", ".config/rclone", ".config/sops", ".config/age"),
    *(
        ".config/google-chrome",
        ".config/chromium",
        ".config/BraveSoftware",
        ".config/microsoft-edge",
        ".config/fish/fish_history",
    ),
    *(".config/containers", ".config/git/credentials", ".config/Signal", ".config/Slack", ".config/discord", ".config/systemd"),
    *(
        ".mozilla",
        ".thunderbird",
        ".local/share/keyrings",
        ".local/share/kwalletd",
        ".local/share/fish",
        ".local/state/sandboxd",
    ),
    *(
        ".cache/mozilla",
        ".cache/google-chrome",
        ".cache/chromium",
        ".claude",
        ".claude.json",
        ".codex",
        ".gemini",
        ".Xauthority",
    ),
    *(".electrum", ".bitcoin", ".ethereum", ".solana", ".fly", ".railway", ".heroku", ".doctl", ".linode-cli", "snap", ".var"),
)


def needed(directory: str, home: str, *, is_prefix: bool) -> list[str]:
    """What to show so that the programs in `directory` (resolved, below `home`) run.

    is_prefix: its parent is an installation of its own (a virtual environment, a conda environment), which is shown whole.
    """
    relative = posixpath.relpath(directory, home)
    if relative == "." or relative.startswith("../"):
        return []
    for name in sorted(KNOWN, key=len, reverse=True):
        if relative == name or relative.startswith(f"{name}/"):
            return [posixpath.join(home, shown) for shown in KNOWN[name]]
    if is_secret(relative):
        return []
    if is_prefix and "/" in relative:
        return [posixpath.dirname(directory)]
    return [directory] if posixpath.basename(directory) in ("bin", "sbin", "shims", "scripts") else []


def is_known(path: str, home: str) -> bool:
    """Whether a resolved path lies in a directory that is known to hold programs only."""
    relative = posixpath.relpath(path, home)
    return any(relative.startswith(f"{name}/") for name in KNOWN)


def is_secret(relative: str) -> bool:
    """Whether a path below the home is one of the secrets or lies in one."""
    return any(relative == secret or relative.startswith(f"{secret}/") for secret in SECRETS)


def outermost(paths: list[str]) -> list[str]:
    """The paths without those that lie below another, in order, each once."""
    unique = list(dict.fromkeys(paths))
    return [path for path in unique if not any(path.startswith(f"{other}/") for other in unique)]
