import pytest

from sandboxd.errors import SpecInvalid
from sandboxd.isolation.services import ServicePlan, environment, service_plans
from sandboxd.spec import Service
from tests.unit.isolation.hosts import place, spec


def planned(service: Service, environ: dict[str, str] | None = None, url: str = "", **parts: object) -> ServicePlan:
    asked = spec(services={"web": service}, **parts)
    shared = environment(asked, "shop", place(), environ or {}, url)
    return service_plans(asked, shared, {}, place())["web"]


def test_a_string_is_run_by_the_shell_and_a_list_as_it_is() -> None:
    assert planned(Service(command="a | b")).argv == ["/bin/sh", "-c", "a | b"]
    assert planned(Service(command=["a", "b c"])).argv == ["a", "b c"]


def test_the_environment_is_built_from_nothing() -> None:
    caller = {
        "PATH": "/x",
        "HOME": "/root",
        "AWS_SECRET_ACCESS_KEY": "s",
        "SSH_AUTH_SOCK": "/s",
        "LANG": "de_DE",
        "LC_ALL": "C",
        "TZ": "UTC",
    }
    env = planned(Service(command="x", env={"A": "3"}), caller, url="http://shop.localhost:7070", env={"A": "1", "B": "2"}).env
    assert env == {
        "PORT": "8080", "PATH": place().path, "HOME": "/home/ada", "USER": "ada", "LOGNAME": "ada", "SHELL": "/bin/sh",
        "LANG": "de_DE", "LC_ALL": "C", "TZ": "UTC", "TERM": "xterm-256color", "HOSTNAME": "shop", "SANDBOXD_ENV": "shop",
        "SANDBOXD_URL": "http://shop.localhost:7070", "A": "3", "B": "2",
    }  # fmt: skip


def test_a_port_is_told() -> None:
    assert planned(Service(command="x", port=3000)).env["PORT"] == "3000"
    assert planned(Service(command="x", port=3000, env={"PORT": "1"})).env["PORT"] == "1"


def test_work_happens_in_the_workspace() -> None:
    assert planned(Service(command="x")).workdir == "/home/ada/src/shop"
    assert planned(Service(command="x", workdir="api/..//web")).workdir == "/home/ada/src/shop/web"
    assert planned(Service(command="x", workdir="/srv")).workdir == "/srv"


def test_a_terminal_takes_input() -> None:
    assert planned(Service(command="x", tty=True)).stdin
    assert not planned(Service(command="x")).stdin


@pytest.mark.parametrize(
    "service",
    [
        Service(command=[]),
        Service(command=[""]),
        Service(command=["a\0b"]),
        Service(command="x", env={"A": "\0"}),
        Service(command="x", env={"": "v"}),
        Service(command="x", env={"A=B": "v"}),
        Service(command="x", workdir="\0"),
    ],
)
def test_what_no_exec_can_carry_is_refused(service: Service) -> None:
    with pytest.raises(SpecInvalid, match="web"):
        planned(service)
