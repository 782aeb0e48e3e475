"""Real programs in an env whose list names one site: each reaches it, and each is told at once where it may not go.

Nothing of them knows of a proxy. All run at once in one env, which takes seconds, since several of them do by themselves.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon import sites
from tests.daemon.world import World, run_world
from tests.daemons import PATIENCE

SITE, OTHER = "93.184.216.34", "93.184.216.35"
JAVA = """
import java.net.URI;
public class Fetch {
    public static void main(String[] names) throws Exception {
        System.out.write(URI.create("http://" + names[0] + "/hello").toURL().openStream().readAllBytes());
        System.out.flush();
    }
}
"""
NODE = "fetch(`https://${process.argv[1]}/hello`).then(r => r.text()).then(t => process.stdout.write(t))"
STATIC = """
#include <stdio.h>
#include <unistd.h>
#include <arpa/inet.h>
#include <sys/socket.h>
int main(int count, char **words) {
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
    char room[4096];
    ssize_t size;
    int sock = socket(AF_INET, SOCK_STREAM, 0);
    inet_pton(AF_INET, words[1], &to.sin_addr);
    if (connect(sock, (void *)&to, sizeof to) || write(sock, "GET /hello HTTP/1.0\\r\\n\\r\\n", 23) < 0) return 1;
    if ((size = read(sock, room, sizeof room)) <= 0) return 1;
    while (size > 0) { fwrite(room, 1, size, stdout); size = read(sock, room, sizeof room); }
    return size < 0;
}
"""
GO = """
package main

import (
	"io"
	"net/http"
	"os"
)

func main() {
	answer, err := http.Get("http://" + os.Args[1] + "/hello")
	if err != nil {
		println(err.Error())
		os.Exit(1)
	}
	io.Copy(os.Stdout, answer.Body)
}
"""
SSH = "ssh -i {work}/id -o IdentitiesOnly=yes -o BatchMode=yes -o StrictHostKeyChecking=no -o LogLevel=ERROR "
SSH += "-o UserKnownHostsFile=/dev/null"
APT = "-o Dir::State=$PWD/apt-{name} -o Dir::Cache=$PWD/apt-{name} -o Dir::Etc::sourcelist=$PWD/list-{name} "
APT += "-o Dir::Etc::sourceparts=/dev/null -o Dir::State::status=/dev/null -o APT::Sandbox::User= -o Acquire::Retries=0 "
APT += "-o Acquire::Languages=none -o Dir::Log=$PWD"
# program: (what it needs, what it runs, of {name}; what it says when that worked)
PROGRAMS = {
    "curl": ("curl", "curl -sS https://{name}/hello", sites.HELLO),
    "static": ("gcc", "busybox nslookup {name}; ./static {address}", sites.HELLO),
    "git-https": ("git", "git clone -q https://{name}/repo.git https-{name} && cat https-{name}/file", sites.HELLO),
    "git-ssh": ("sshd", "git clone -q ssh://{user}@{name}{root}/repo.git ssh-{name} && cat ssh-{name}/file", sites.HELLO),
    "pip": ("python3", "{python} -m pip -q --no-cache-dir --retries 0 --disable-pip-version-check download --no-deps"
            " -d pip-{name} --index-url https://{name}/simple demo && ls pip-{name}", "demo-7.7"),
    "npm": ("npm", "mkdir npm-{name} && cd npm-{name} && npm install --no-audit --no-fund --fetch-retries 0 --loglevel error"
            " --registry https://{name}/npm/ demo >&2 && cat node_modules/demo/package.json", "7.7.0"),
    "apt": ("apt-get", "mkdir -p apt-{name}/lists/partial apt-{name}/archives/partial &&"
            " echo 'deb [trusted=yes] http://{name}/apt ./' > list-{name} &&"
            f" apt-get -qq -o APT::Update::Error-Mode=any {APT} update >&2 && apt-cache {APT} policy demo", "7.7"),
    "psql": ("psql", "psql -X -A -t -h {name} -U x -c 'select 42' x", "42"),
    "node": ("node", "node -e '{node}' {name}", sites.HELLO),
    "go": ("gccgo", "GODEBUG=netdns=go ./go-fetch {name}", sites.HELLO),  # by a resolver of its own
    "java": ("javac", "java -XX:TieredStopAtLevel=1 -XX:+UseSerialGC Fetch.java {name}", sites.HELLO),
}  # fmt: skip
NEEDED = ["openssl", "ssh-keygen", "busybox", *sorted({needed for needed, _, _ in PROGRAMS.values()})]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[World, Path]]:
    """The site, another that no rule names, and what the programs need of files."""
    from tests.require import require

    require("userns", "unprivileged", "nft", *NEEDED)
    root, work = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("work")
    places = [("tcp", address, port) for address in (SITE, OTHER) for port in (22, 80, 443, 5432)]
    for made in run_world(*places):
        made.names |= {sites.NAME: [SITE], "other.example": [OTHER]}
        context = sites.certificate(root)
        sites.keys(root)
        sites.fill(root)
        shutil.copy(root / "ca.pem", work)
        shutil.copy(root / "id", work)
        made.serve(SITE, 22, sites.shell(root))
        made.serve(SITE, 5432, sites.database)
        webs = [sites.Web(made.sockets["tcp", SITE, 80], root, None), sites.Web(made.sockets["tcp", SITE, 443], root, context)]
        try:
            yield made, work
        finally:
            for web in webs:
                web.end()


@pytest.fixture(scope="module")
def came(world: tuple[World, Path]) -> dict[str, list[object]]:
    """[exit status, what was said, on stderr] of each program and name, and what `sandbox net` says afterwards."""
    made, work = world
    root = next(iter(work.parent.glob("site*")))
    (work / "Fetch.java").write_text(JAVA)
    (work / "static.c").write_text(STATIC)
    (work / "fetch.go").write_text(GO)
    subprocess.run(
        ["gccgo", "-static", "-o", str(work / "go-fetch"), str(work / "fetch.go")], check=True, stderr=subprocess.DEVNULL
    )
    subprocess.run(["gcc", "-static", "-O1", "-o", str(work / "static"), str(work / "static.c")], check=True)
    lines = []
    for program, (_, command, _) in PROGRAMS.items():
        for name, address in ((sites.NAME, SITE), ("other.example", OTHER)):
            words = {
                "name": name,
                "address": address,
                "root": root,
                "python": sys.executable,
                "node": NODE,
                "user": sites.user(),
            }
            filled = command
            for key, value in words.items():
                filled = filled.replace("{" + key + "}", str(value))
            (work / f"{program}-{name}.sh").write_text(filled)
            out = f"{program}-{name}"
            lines.append(f"(timeout 200 sh {out}.sh > {out}.out 2> {out}.err < /dev/null; echo $? > {out}.status) &")
    (work / "all.sh").write_text("\n".join([*lines, "wait"]))
    trusting = ("CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", "NODE_EXTRA_CA_CERTS", "NPM_CONFIG_CAFILE")
    environ = dict.fromkeys(trusting, f"{work}/ca.pem") | {"GIT_SSH_COMMAND": SSH.format(work=work), "GIT_TERMINAL_PROMPT": "0"}
    sandbox = made.daemon.sandbox
    flags = [word for key, value in environ.items() for word in ("-e", f"{key}={value}")]
    shown = ["-v", f"{sys.prefix}:{sys.prefix}:ro"]
    sandbox(
        "run", "-d", "--name", "many", "--egress", f"{sites.NAME},{SITE}:80", *flags, *shown, "--", "sleep", "1000", cwd=work
    )
    try:
        sandbox("exec", "many", "sh", "all.sh", cwd=work, timeout=280)
        found: dict[str, list[object]] = {"net": made.daemon.json("net", "many")}
        found["metrics"] = list(settled(made))
    finally:
        sandbox("rm", "-f", "many", cwd=work)
    for program in PROGRAMS:
        for name in (sites.NAME, "other.example"):
            at = work / f"{program}-{name}"
            texts = [at.with_name(f"{at.name}.{part}").read_text(errors="replace") for part in ("status", "out", "err")]
            found[f"{program} {name}"] = [int(texts[0]), *texts[1:]]
    return found


def settled(made: World) -> list[str]:
    """The counts of what went out, once nothing is open: the worker tells once a second, and nobody is told of that."""
    deadline = time.monotonic() + PATIENCE
    while True:
        lines = [line for line in made.daemon.sandbox("metrics").stdout.splitlines() if line.startswith("sandboxd_env_egress_")]
        if any(line.startswith("sandboxd_env_egress_open{") and line.endswith(" 0.0") for line in lines):
            return lines
        assert time.monotonic() < deadline, lines
        time.sleep(0.1)


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_reaches_what_is_listed_and_nothing_else(came: dict[str, list[object]], program: str) -> None:
    status, said, error = came[f"{program} {sites.NAME}"]
    assert status == 0, error
    assert PROGRAMS[program][2].strip() in str(said)
    status, said, error = came[f"{program} other.example"]
    assert status not in (0, 124), f"denied, and not left waiting: {said}{error}"
    assert PROGRAMS[program][2].strip() not in str(said)


def test_what_was_denied_is_seen_by_name(came: dict[str, list[object]]) -> None:
    rows = json.loads(json.dumps(came["net"]))
    denied = {(row["name"] or row["address"], row["allow"]) for row in rows if row["state"] == "denied"}
    assert {("other.example", "other.example"), (OTHER, f"{OTHER}:80")} <= denied


def test_what_went_out_is_counted(came: dict[str, list[object]]) -> None:
    lines = [str(line).split() for line in came["metrics"] if 'env="many"' in str(line)]
    counted = {words[0].partition("{")[0].removeprefix("sandboxd_env_egress_"): float(words[1]) for words in lines}
    assert counted.keys() == {"open", "connections_total", "denied_total", "sent_bytes_total", "received_bytes_total"}
    assert counted["open"] == 0
    assert all(value > 0 for key, value in counted.items() if key != "open"), counted
