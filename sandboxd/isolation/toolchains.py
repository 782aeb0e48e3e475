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

# What a real home must never show, file or directory, by what it gives away. (Looked through for it: the blacklist of
# firejail's disable-common, and what nono and srt deny.)
SECRETS_TEXT = """
# keys, and what unlocks them
.ssh .gnupg .pki .cert .ecryptfs .Private Private .fscrypt .vaults .password-store .config/age .config/sops .config/op
.config/keybase .local/share/keyrings .local/share/kwalletd .local/share/pki .local/share/plasma-vault
.gnome2/keyrings .kde/share/apps/kwallet .kde4/share/apps/kwallet .config/Bitwarden .config/1Password
.config/keepassxc .cache/keepassxc .local/share/gopass .config/gopass .age .lastpass
# clouds, clusters and services
.aws .azure .oci .kube .boto .s3cfg .s3cmd .passwd-s3fs .terraform.d .terraformrc .vault-token .fly .railway .heroku
.doctl .linode-cli .config/gcloud .config/doctl .config/hcloud .config/rclone .config/flyctl .config/railway
.config/vercel .config/netlify .config/stripe .config/ngrok .config/ngrok2 .ngrok2 .config/heroku .config/scw
.config/configstore .config/wrangler .wrangler .supabase .databricks .databrickscfg .snowflake .config/openstack
.minikube .pulumi .cloudflared .tsh .config/helm .config/argocd .chef .vagrant.d .ansible .davfs2 .smbcredentials
.config/restic .config/borg .config/tailscale
# registries and repositories
.docker .config/containers .netrc .npmrc .yarnrc .yarnrc.yml .pypirc .git-credentials .git-credential-cache
.cargo/credentials .cargo/credentials.toml .gem/credentials .bundle/config .m2/settings.xml .m2/settings-security.xml
.gradle/gradle.properties .config/gh .config/hub .config/glab-cli .config/tea .config/git/credentials
.composer/auth.json .config/composer/auth.json .nuget/NuGet .config/NuGet .config/pypoetry/auth.toml .hex .config/pip
.pip .config/uv/credentials.toml .huggingface/token .cache/huggingface/token .kaggle
# databases and mail
.pgpass .my.cnf .mylogin.cnf .dbshell .mongorc.js .config/pgcli .config/mycli .msmtprc .fetchmailrc .mutt .muttrc
.config/mutt .mbsyncrc .offlineimaprc .thunderbird .config/evolution .local/share/evolution .config/aerc .caff
# what was typed
.bash_history .zsh_history .python_history .psql_history .mysql_history .node_repl_history .histfile .history .lesshst
.viminfo .local/share/fish .config/fish/fish_history .local/share/atuin .local/share/mcfly .local/state/bash
.local/state/zsh .local/state/less .local/state/python_history .local/share/recently-used.xbel .local/share/Trash
# browsers and messengers: cookies are logins
.mozilla .config/google-chrome .config/google-chrome-beta .config/chromium .config/BraveSoftware .config/microsoft-
edge .config/vivaldi .config/opera .librewolf .zen .waterfox .tor-browser .local/share/torbrowser .config/qutebrowser
.local/share/qutebrowser .cache/mozilla .cache/google-chrome .cache/chromium .config/Signal .config/Slack
.config/discord .config/Element .config/teams .config/zoom .local/share/TelegramDesktop .config/skypeforlinux .purple
.weechat .config/weechat .irssi snap .var
# agents and editors that keep tokens
.claude .claude.json .codex .gemini .cursor .config/Cursor .config/Code/User/globalStorage .config/github-copilot
.aider.conf.yml .continue .config/goose .ollama/id_ed25519 .config/JetBrains
# money
.electrum .bitcoin .ethereum .solana .monero .config/Exodus .config/Ledger
# this machine: its screen, its session, its own sandboxes
.Xauthority .ICEauthority .config/systemd .config/autostart .local/state/sandboxd
"""
SECRETS = tuple(word for line in SECRETS_TEXT.splitlines() if not line.startswith("#") for word in line.split())
# Names at the top of a home that say by themselves what they are.
SECRET_ENDINGS = ("_history", ".kdb", ".kdbx", ".key", ".pem", ".p12", ".pfx", ".jks", ".keystore", ".ovpn", ".gpg")


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


def looks_secret(name: str) -> bool:
    """Whether a name at the top of a home says by itself that it is nobody else's."""
    return name.lower().endswith(SECRET_ENDINGS)
