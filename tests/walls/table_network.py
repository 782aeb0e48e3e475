"""Attempts on the network and on the control side: the host's sockets, other envs', the daemon's."""
# ruff: noqa: E501 - a row is read across, as a table's

import socket

from tests.walls.attempts import CAPABLE, HOST_NETWORK, NO_WALLS, OTHER, OUTSIDE, ROUTED, SHOWN, Attempt

DGRAM, RAW, SEQPACKET = int(socket.SOCK_DGRAM), int(socket.SOCK_RAW), int(socket.SOCK_SEQPACKET)
OWN = ["listen", "AF_INET", ["127.0.0.1", 0]]
OWN6 = ["listen", "AF_INET6", ["::1", 0]]
OWN_PATH = ["listen", "AF_UNIX", "/tmp/own.sock"]
OWN_ABSTRACT = ["listen", "AF_UNIX", "\0own"]
TCP = ["make_socket", "AF_INET", 1]

LOOPBACK = [
    Attempt("host's TCP", ["connect", "AF_INET", ["127.0.0.1", "{tcp}"]], "ECONNREFUSED", HOST_NETWORK, "ok", OWN),
    Attempt("host's TCP, IPv6", ["connect", "AF_INET6", ["::1", "{tcp6}"]], "ECONNREFUSED", HOST_NETWORK, "ok", OWN6),
    Attempt("host's TCP, mapped", ["connect", "AF_INET6", ["::ffff:127.0.0.1", "{tcp}"]], "ECONNREFUSED", HOST_NETWORK, "ok", OWN6),
    Attempt("host's TCP, 0.0.0.0", ["connect", "AF_INET", ["0.0.0.0", "{tcp}"]], "ECONNREFUSED", HOST_NETWORK, "ok", OWN),
    Attempt("host's UDP", ["connect", "AF_INET", ["127.0.0.1", "{udp}"], DGRAM], "ECONNREFUSED", HOST_NETWORK, "ok", OWN),
    Attempt("host's UDP, IPv6", ["connect", "AF_INET6", ["::1", "{udp6}"], DGRAM], "ECONNREFUSED", HOST_NETWORK, "ok", OWN6),
    Attempt("the router", ["connect", "AF_INET", ["127.0.0.1", "{router}"]], "ECONNREFUSED", HOST_NETWORK, "ok", OWN),
    Attempt("another env's port", ["connect", "AF_INET", ["127.0.0.1", 3000]], "ECONNREFUSED", OTHER, "ok", OWN),
    Attempt("an address outside", ["be_told", "AF_INET", ["{address}", "{anywhere}"]], "ECONNRESET|ECONNREFUSED", OUTSIDE, "ok", OWN),
    Attempt("multicast", ["announce", "224.0.0.251", 5353], "EPERM|ENETUNREACH", ROUTED, "ok", OWN),
]  # fmt: skip

KINDS = [
    Attempt("raw socket", ["make_socket", "AF_INET", RAW, 1], "EPERM", CAPABLE, "ok", TCP),
    Attempt("raw socket, IPv6", ["make_socket", "AF_INET6", RAW, 58], "EPERM", CAPABLE, "ok", TCP),
    Attempt("packet socket", ["make_socket", "AF_PACKET", RAW, 768], "EPERM|EAFNOSUPPORT", CAPABLE, "ok", TCP),
    Attempt("packet datagrams", ["make_socket", "AF_PACKET", DGRAM, 768], "EPERM|EAFNOSUPPORT", CAPABLE, "ok", TCP),
    Attempt("vsock", ["make_socket", "AF_VSOCK", 1], "EAFNOSUPPORT", OUTSIDE, "ok|ENODEV", TCP, "seccomp"),
    Attempt("audit", ["make_socket", "AF_NETLINK", RAW, 9], "EPROTONOSUPPORT", OUTSIDE, "ok", TCP, "seccomp"),
    Attempt("nf_tables", ["make_socket", "AF_NETLINK", RAW, 12], "EPROTONOSUPPORT", OUTSIDE, "ok", TCP, "seccomp"),
    Attempt("take lo down", ["netlink_change", "link"], "EPERM", CAPABLE, "ok", ["make_socket", "AF_NETLINK", RAW, 0]),
    Attempt("an address more", ["netlink_change", "addr"], "EPERM", CAPABLE, "ok|EEXIST", OWN),
    Attempt("a route more", ["netlink_change", "route"], "EPERM", CAPABLE, "ok|ENETDOWN", OWN),
    Attempt("join pid 1's network", ["setns", "/proc/{init}/ns/net", 0], "EACCES", OUTSIDE, "EPERM", ["readlink", "/proc/self/ns/net"]),
]  # fmt: skip

UNIX = [
    Attempt("abstract socket", ["connect", "AF_UNIX", "{abstract}"], "ECONNREFUSED|EPERM", NO_WALLS, "ok", OWN_ABSTRACT),
    Attempt("docker.sock", ["connect", "AF_UNIX", "{sockets}/docker.sock"], "ENOENT", SHOWN, "ok", OWN_PATH),
    Attempt("session bus", ["connect", "AF_UNIX", "{sockets}/bus"], "ENOENT", SHOWN, "ok", OWN_PATH),
    Attempt("X11", ["connect", "AF_UNIX", "{sockets}/X0"], "ENOENT", SHOWN, "ok", OWN_PATH),
    Attempt("agent of ssh", ["connect", "AF_UNIX", "{home}/.ssh/agent"], "ENOENT", SHOWN, "ok", OWN_PATH),
    Attempt("a link to docker.sock", ["link_and_read", "{sockets}/docker.sock", "{workspace}/link"], "ENOENT", OUTSIDE, "ENXIO", OWN_PATH),
]  # fmt: skip

CONTROL = [
    Attempt("control socket", ["connect", "AF_UNIX", "{state}/control.sock"], "ENOENT", NO_WALLS, "ok", OWN_PATH),
    Attempt("own init's control", ["connect", "AF_UNIX", "{env_dir}/init.sock"], "ENOENT", OUTSIDE, "ok", OWN_PATH),
    Attempt("own init's dial", ["connect", "AF_UNIX", "{env_dir}/dial.sock", SEQPACKET], "ENOENT", OUTSIDE, "ok", OWN_PATH),
    Attempt("another's init", ["connect", "AF_UNIX", "{other_dir}/init.sock"], "ENOENT", OUTSIDE, "ok", OWN_PATH),
    Attempt("the state directory", ["list", "{state}"], "ENOENT", NO_WALLS, "ok", ["list", "/tmp"]),
    Attempt("the router's socket", ["access", "{state}/router.sock"], "ENOENT", OUTSIDE, "ok", OWN_PATH),
]

NETWORK = [*LOOPBACK, *KINDS, *UNIX, *CONTROL]
