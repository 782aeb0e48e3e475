"""The router with one and two workers against haproxy, nginx, Node's http-proxy and portless, and no proxy at all.

Every subject leads to the same nginx: the peers to one on the host, the router to one in a network namespace of its own, over
sockets born in it. The peers keep their connections to it in a pool, as their users would set them up; the router dials for
each client connection (see hazards of pools). With two workers it stands against the peers with two of theirs. All run
interleaved, so that a noisy machine is noisy for all; loopback only.
"""

import argparse
import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tests.bench.results import Row, row
from tests.router.standin import Bench, Standin

BULK = 64 << 20
ROUNDS = 5
SECONDS = 2.0

BACKEND = """
worker_processes 1; daemon off; error_log stderr crit; pid {dir}/{name}.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_requests 1000000000; sendfile on; tcp_nopush on;
    client_body_temp_path {dir}/t; proxy_temp_path {dir}/t;
    fastcgi_temp_path {dir}/t; uwsgi_temp_path {dir}/t; scgi_temp_path {dir}/t;
    server {{ listen 127.0.0.1:{port} backlog=4096; root {dir};
        location = / {{ return 200 "hello, world\\n"; }}
        location = /unlike {{ add_header X-Request-Id $request_id; return 200 "hello, world\\n"; }}
    }}
}}
"""
NGINX = """
worker_processes {workers}; daemon off; error_log stderr crit; pid {dir}/{name}.pid;
events {{ worker_connections 8192; }}
http {{
    access_log off; keepalive_requests 1000000000;
    client_body_temp_path {dir}/t; proxy_temp_path {dir}/t;
    fastcgi_temp_path {dir}/t; uwsgi_temp_path {dir}/t; scgi_temp_path {dir}/t;
    upstream backend {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000000; }}
    server {{
        listen 127.0.0.1:{port} backlog=4096;
        location / {{
            proxy_pass http://backend; proxy_http_version 1.1; proxy_max_temp_file_size 0;
            proxy_set_header Host $http_host; proxy_set_header Connection ""; proxy_set_header X-Forwarded-For $remote_addr;
        }}
    }}
}}
"""
HAPROXY = """
global
    nbthread {workers}
    maxconn 1000
defaults
    mode http
    option forwardfor
    option splice-auto
    timeout connect 5s
    timeout client 60s
    timeout server 60s
frontend in
    bind 127.0.0.1:{port} backlog 4096
    default_backend out
backend out
    server backend 127.0.0.1:{backend}
"""


NODE = """
const http = require("http"), proxy = require("{modules}/http-proxy");
const agent = new http.Agent({{ keepAlive: true, maxSockets: 256 }});
const out = proxy.createProxyServer({{ target: "http://127.0.0.1:{backend}", agent }});
out.on("error", (error, request, response) => response.destroy());
http.createServer((request, response) => out.web(request, response)).listen({port}, "127.0.0.1");
"""
# What its own program runs for `--no-tls`, with one app registered, as portless run does it: by the name that wrk sends.
PORTLESS = """
import {{ createProxyServer }} from "{modules}/portless/dist/index.js";
const routes = [{{ hostname: "127.0.0.1", port: {backend} }}];
const onError = () => {{}};
createProxyServer({{ getRoutes: () => routes, proxyPort: {port}, onError }}).listen({port}, "127.0.0.1");
"""
PAIR = ", 2 workers"
PEERS = ("nginx", "haproxy", "http-proxy", "portless", f"nginx{PAIR}", f"haproxy{PAIR}")
MODULES = os.environ.get("NODE_MODULES", "/usr/local/lib/node_modules")  # where npm put http-proxy and portless


# The router parses a head that repeats byte for byte on its connection only once; these do not repeat, in either direction.
UNLIKE = """
local n = math.random(1000000)
function request()
    n = n + 1
    return "GET /unlike?" .. n .. " HTTP/1.1\\r\\nHost: 127.0.0.1\\r\\nX-Number: " .. n * 7 .. "\\r\\n\\r\\n"
end
"""


class Load(NamedTuple):
    """One way of asking: a metric, what is asked for, over how many connections."""

    metric: str
    path: str
    connections: int
    close: bool = False
    bulk: bool = False
    script: str = ""


LOADS = (
    Load("requests at 64 connections", "/", 64),
    Load("requests at 1 connection", "/", 1),
    Load("requests at 64 connections, no two alike", "/unlike", 64, script=UNLIKE),
    Load("bulk download", "/bulk", 2, bulk=True),
    Load("new connections", "/", 16, close=True),
)


class Found(NamedTuple):
    """What wrk said. latencies in milliseconds."""

    rate: float
    bytes_rate: float
    median: float
    p99: float


def run(args: argparse.Namespace) -> Iterable[Row]:
    """Rows of rates (per second) and latencies (ms) for each load and subject."""
    rounds, seconds = args.count or ROUNDS, args.seconds or SECONDS
    found: dict[tuple[Load, str], list[Found]] = {}
    with subjects() as ports:
        for _ in range(rounds):
            for load in LOADS:
                for name, port in ports.items():
                    found.setdefault((load, name), []).append(measure(port, load, seconds))
    for (load, name), results in found.items():
        peer, metric = name in PEERS, load.metric + (PAIR if name.endswith(PAIR) else "")
        if load.bulk:
            yield row(metric, name, [result.bytes_rate / 1e6 for result in results], "MB/s", peer=peer)
        else:
            yield row(metric, name, [result.rate for result in results], "1/s", peer=peer)
        best = sorted(results, key=lambda result: result.p99)[len(results) // 2]
        yield Row(f"{metric}, latency", name, best.median, best.p99, "ms", peer)


@contextlib.contextmanager
def subjects() -> Iterator[dict[str, int]]:
    """Ports of all that are measured, by name; peers that are not installed are left out."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="sandboxd-bench-")))
        with (directory / "bulk").open("wb") as file:
            for _ in range(BULK >> 20):
                file.write(bytes(range(256)) * 4096)
        backend = free_port()
        stack.enter_context(program(nginx(directory, "backend", BACKEND, port=backend, name="backend"), backend))
        ports = {"direct": backend}
        for workers, suffix in ((1, ""), (2, PAIR)):
            if shutil.which("nginx"):
                port, name = free_port(), f"nginx{workers}"
                command = nginx(directory, name, NGINX, port=port, backend=backend, workers=workers, name=name)
                stack.enter_context(program(command, port))
                ports[f"nginx{suffix}"] = port
            if shutil.which("haproxy"):
                port = ports[f"haproxy{suffix}"] = free_port()
                config = directory / f"haproxy{workers}.cfg"
                config.write_text(HAPROXY.format(port=port, backend=backend, workers=workers))
                stack.enter_context(program(["haproxy", "-db", "-q", "-f", str(config)], port))
        for name, file, source in (("http-proxy", "proxy.js", NODE), ("portless", "portless.mjs", PORTLESS)):
            if shutil.which("node") and Path(MODULES, name).exists():
                ports[name] = free_port()
                script = directory / file
                script.write_text(source.format(modules=MODULES, backend=backend, port=ports[name]))
                stack.enter_context(program(["node", str(script)], ports[name]))
        command = nginx(directory, "inside", BACKEND, port=3000, name="inside")
        env = Standin("127.0.0.1", directory / "env", serve=(), run=command)
        stack.callback(env.close)
        ports["sandboxd"] = stack.enter_context(router(directory / "one", env, 1))
        ports[f"sandboxd{PAIR}"] = stack.enter_context(router(directory / "two", env, 2))
        yield ports


@contextlib.contextmanager
def router(directory: Path, env: Standin, workers: int) -> Iterator[int]:
    """The port of a router with that one env."""
    directory.mkdir()
    bench = Bench(directory, workers=workers)
    try:
        # wrk resolves the host it is given, so the env is reached under the name that it then sends.
        bench.push([env.endpoint()], hosts={"127.0.0.1": 0})
        wait_for(bench.port)
        yield bench.port
    finally:
        bench.close()


def nginx(directory: Path, file: str, template: str, **values: object) -> list[str]:
    """The command of an nginx with that configuration."""
    config = directory / f"{file}.conf"
    config.write_text(template.format(dir=directory, **values))
    return [shutil.which("nginx") or "/usr/sbin/nginx", "-e", "stderr", "-c", str(config)]


@contextlib.contextmanager
def program(command: list[str], port: int) -> Iterator[None]:
    """Run until done with; entered once it answers."""
    process = subprocess.Popen(command)
    try:
        wait_for(port)
        yield
    finally:
        process.terminate()
        process.wait()


def wait_for(port: int) -> None:
    """Until an answer with status 200 comes on that port."""
    for _ in range(500):
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
                if sock.recv(16).startswith(b"HTTP/1.1 200"):
                    return
        except OSError:
            pass
        time.sleep(0.02)
    raise RuntimeError(f"nothing answers on port {port}")


def measure(port: int, load: Load, seconds: float) -> Found:
    """One run of wrk: one thread, as all the others have."""
    command = ["wrk", "-t1", f"-c{load.connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    if load.close:
        command += ["-H", "Connection: close"]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        if load.script:
            script.write(load.script)
            script.flush()
            command += ["-s", script.name]
        output = subprocess.run(
            [*command, f"http://127.0.0.1:{port}{load.path}"], check=True, capture_output=True, text=True
        ).stdout
    if "Non-2xx" in output:
        raise RuntimeError(f"port {port}: {output}")
    return Found(
        rate=number(r"Requests/sec:\s+([\d.]+)()", output),
        bytes_rate=number(r"Transfer/sec:\s+([\d.]+)([KMGT]?)B", output),
        median=milliseconds(r"50%\s+([\d.]+)(us|ms|s|m)", output),
        p99=milliseconds(r"99%\s+([\d.]+)(us|ms|s|m)", output),
    )


def number(pattern: str, output: str) -> float:
    """A number of wrk's, its binary prefix taken in."""
    match = re.search(pattern, output)
    if match is None:
        raise RuntimeError(f"wrk said: {output}")
    return float(match[1]) * float(1024 ** " KMGT".index(match[2] or " "))


def milliseconds(pattern: str, output: str) -> float:
    """A time of wrk's."""
    match = re.search(pattern, output)
    return float(match[1]) * {"us": 0.001, "ms": 1, "s": 1000, "m": 60000}[match[2]] if match else 0.0


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])
