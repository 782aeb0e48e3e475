"""What `--help` of each verb shows at its end: two or three lines that work as they stand.

Imports nothing, and is imported for `--help` only. Invariant: every verb has an example, and click takes each of them.
"""

EXAMPLES: dict[str, tuple[str, ...]] = {
    "up": ("sandbox up", "sandbox up examples/hello", "sandbox up --scale 3"),
    "down": ("sandbox down", "sandbox down examples/hello"),
    "run": (
        "sandbox run -- npm run dev",
        "sandbox run -d --name shop -p 3000 -- npm start",
        "sandbox run --rm -m 512m --egress registry.npmjs.org -- npm ci",
    ),
    "ps": ("sandbox ps -a", "sandbox ps -q --filter status=ready", "sandbox ps --format '{{.Name}} {{.URL}}'"),
    "inspect": ("sandbox inspect shop", "sandbox inspect --format '{{.State}}' shop"),
    "logs": ("sandbox logs -f shop", "sandbox logs --tail 20 -t shop/web", "sandbox logs --since 5m shop"),
    "events": ("sandbox events -f", "sandbox events --since 1h shop", "sandbox events --filter event=stopped"),
    "stats": ("sandbox stats", "sandbox stats --no-stream --format json shop"),
    "top": ("sandbox top shop",),
    "why": ("sandbox why shop", "sandbox why --since 5m shop"),
    "net": ("sandbox net -f shop", "sandbox net --allow registry.npmjs.org:443 shop"),
    "url": ("sandbox url shop", "curl $(sandbox url shop)"),
    "open": ("sandbox open shop", "sandbox open shop/web"),
    "ports": ("sandbox ports shop",),
    "exec": (
        "sandbox exec -it shop -- bash",
        "sandbox exec shop -- ls -l",
        "echo 'print(6 * 7)' | sandbox exec -i shop -- python3",
    ),
    "shell": ("sandbox shell shop", "sandbox shell shop/db"),
    "attach": ("sandbox attach shop/web", "sandbox attach --no-stdin shop"),
    "forward": ("sandbox forward shop 5432", "sandbox -H ssh://me@box forward shop 8080"),
    "wait": ("sandbox wait shop", "sandbox wait --for ready --timeout 30s shop"),
    "stop": ("sandbox stop shop", "sandbox stop -t 2s shop db", "sandbox stop -l project=shop"),
    "start": ("sandbox start --wait shop",),
    "restart": ("sandbox restart shop",),
    "suspend": ("sandbox suspend shop",),
    "resume": ("sandbox resume shop",),
    "ensure": ("sandbox ensure shop --key pr-42", "sandbox ensure shop --key - <token"),
    "template": ("sandbox template ls", "sandbox template rm -f shop"),
    "scale": ("sandbox scale shop=3", "sandbox scale shop=auto"),
    "update": ("sandbox update -m 1g --pids-limit 500 shop",),
    "kill": ("sandbox kill shop", "sandbox kill -s HUP shop/web"),
    "rm": ("sandbox rm shop", "sandbox rm -f shop db", "sandbox rm -f all --yes"),
    "prune": ("sandbox prune", "sandbox prune -f --filter label=ci"),
    "doctor": ("sandbox doctor", "sandbox doctor --fix --dry-run"),
    "metrics": ("sandbox metrics",),
    "daemon": ("sandbox daemon status", "sandbox daemon restart", "sandbox daemon stop --all"),
    "context": ("sandbox context create team --host ssh://me@team.example", "sandbox context use team"),
    "completion": ("source <(sandbox completion bash)",),
}


def epilog(verb: str) -> str:
    """The examples of a verb as click's help ends with them."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in EXAMPLES[verb])
