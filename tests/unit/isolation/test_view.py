import msgspec

from sandboxd.isolation import landlock
from sandboxd.isolation.facts import MountFact
from sandboxd.isolation.steps import (
    Bind,
    Enter,
    Files,
    Links,
    Loopback,
    Pivot,
    Proc,
    Queues,
    System,
    Tmpfs,
    in_order,
)
from sandboxd.isolation.view import BLANK, EMPTY, base_steps, directories, hosts_file, own_files, settle, tmp_size, view_steps
from tests.unit.isolation.hosts import LAYOUT, place


def binds(**facts: object) -> list[Bind]:
    return [step for step in view_steps(place(**facts), LAYOUT, handed=False) if isinstance(step, Bind)]


def test_the_base_is_in_order_and_ends_with_nothing_to_gain() -> None:
    base = base_steps(LAYOUT, "full", network=True)
    assert in_order(base)
    assert isinstance(base[0], Enter)
    assert Loopback() in base
    assert Loopback() not in base_steps(LAYOUT, "full", network=False)


def test_the_system_is_an_allow_list() -> None:
    (system,) = [step for step in base_steps(LAYOUT, "full", network=True) if isinstance(step, System)]
    assert system.trees == [
        ("/usr", "/usr"),
        ("/etc", "/etc"),
        ("/data/opt", "/opt"),
        ("/sys/devices/system", "/sys/devices/system"),
    ]


def test_every_tmpfs_has_a_ceiling() -> None:
    found = [step for step in base_steps(LAYOUT, "full", network=True) if isinstance(step, Tmpfs)]
    assert [step.target for step in found] == ["/tmp", "/var/tmp", "/dev/shm", "/run"]
    assert all(0 < step.size <= 2 << 30 for step in found)


def test_procfs_is_what_the_host_allows() -> None:
    assert Proc("/proc", "") in base_steps(LAYOUT, "full", network=True)
    assert Proc("/proc", "subset=pid") in base_steps(LAYOUT, "subset", network=True)


def test_directories_are_made_once_parents_first() -> None:
    made = directories(LAYOUT)
    assert len(made) == len(set(made))
    assert all(path.rpartition("/")[0] in ["", *made[: made.index(path)]] for path in made)
    assert "/home/ada" in made


def test_no_home_is_made_in_what_is_mounted_over() -> None:
    for home in ("/tmp/h", "/opt/h", "/run/h", "/bin/h"):
        assert home not in directories(msgspec.structs.replace(LAYOUT, home=home))


def test_files_of_ours_lie_where_the_links_of_etc_lead() -> None:
    base = base_steps(LAYOUT, "full", network=True)
    (system,) = [step for step in base if isinstance(step, System)]
    assert [target for _, target in system.files] == ["/etc/hosts"]
    after = base[base.index(Pivot()) :]
    assert [path for step in after if isinstance(step, Files) for path, _ in step.files] == [
        "/run/systemd/resolve/stub-resolv.conf"
    ]
    written = own_files(LAYOUT, "h", "r").files
    assert written == [("/.sandboxd/hosts", "h"), ("/run/systemd/resolve/stub-resolv.conf", "r")]
    assert own_files(LAYOUT, "h", "").files == [("/.sandboxd/hosts", "h")]


def test_links_of_the_root_are_kept() -> None:
    (links,) = [step for step in base_steps(LAYOUT, "full", network=True) if isinstance(step, Links)]
    assert ("/bin", "usr/bin") in links.links


def test_home_first_then_what_lies_in_it() -> None:
    shown = binds(tools=["/home/ada/.pyenv"])
    assert [(bind.target, bind.readonly) for bind in shown] == [
        ("/home/ada", False), ("/home/ada/.pyenv", True), ("/home/ada/src/shop", False),
    ]  # fmt: skip


def test_walls_of_the_workspace_are_laid_over_it() -> None:
    shop = "/home/ada/src/shop"
    shown = binds(protect=[(f"{shop}/sandbox.toml", True), (f"{shop}/.git/hooks", False)], pins=[f"{shop}/.git"])
    assert shown[2:] == [
        Bind(f"{shop}/.git", f"{shop}/.git", readonly=False),
        Bind(f"{shop}/sandbox.toml", f"{shop}/sandbox.toml", file=True),
        Bind(f"{shop}/.git/hooks", f"{shop}/.git/hooks"),
    ]


def test_a_second_view_of_the_workspace_has_the_same_walls() -> None:
    shop = "/home/ada/src/shop"
    mount = MountFact(source="/home/ada/src", target="/src", readonly=False, file=False)
    shown = binds(protect=[(f"{shop}/sandbox.toml", True)], mounts=[mount])
    assert Bind(f"{shop}/sandbox.toml", "/src/shop/sandbox.toml", file=True) in shown
    readonly = MountFact(source="/home/ada/src", target="/src", readonly=True, file=False)
    assert not [
        bind for bind in binds(protect=[(f"{shop}/sandbox.toml", True)], mounts=[readonly]) if bind.target.startswith("/src/")
    ]


def test_what_is_hidden_stays_hidden_in_every_view() -> None:
    mount = MountFact(source="/state", target="/seen", readonly=True, file=False)
    assert Bind(EMPTY, "/seen/own", origin="inside") in binds(hide=["/state/own"], mounts=[mount])


def test_a_real_home_is_read_only_and_its_secrets_are_masked() -> None:
    shown = binds(real_home="/data/ada", secrets=[("/data/ada/.ssh", False), ("/data/ada/.netrc", True)])
    assert shown[0] == Bind("/data/ada", "/home/ada")
    assert Bind(EMPTY, "/home/ada/.ssh", origin="inside") in shown
    assert Bind(BLANK, "/home/ada/.netrc", file=True, origin="inside") in shown


def test_of_two_mounts_at_one_place_the_later_is_on_top() -> None:
    one, two = (MountFact(source=source, target="/data", readonly=True, file=False) for source in ("/one", "/two"))
    assert [bind.source for bind in binds(mounts=[one, two]) if bind.target == "/data"] == ["/one", "/two"]


def test_a_handed_home_comes_as_a_descriptor() -> None:
    (home, *_) = view_steps(place(), LAYOUT, handed=True)
    assert isinstance(home, Bind)
    assert home.origin == "handed"


def test_tmp_is_bounded_by_the_memory_of_host_and_env() -> None:
    assert tmp_size(8 << 30, None) == 2 << 30
    assert tmp_size(1 << 30, None) == 256 << 20
    assert tmp_size(1 << 20, None) == 64 << 20
    assert tmp_size(8 << 30, 32 << 20) == 32 << 20


def test_hosts_names_every_service_once() -> None:
    text = hosts_file(["shop", "web", "shop"], "")
    assert text.splitlines()[0] == "127.0.0.1 localhost shop web"
    assert hosts_file(["shop"], "10.0.0.1 box\n").startswith("10.0.0.1 box\n127.0.0.1 ")


def test_targets_are_settled_because_no_link_is_followed() -> None:
    links = [("/bin", "usr/bin"), ("/var/run", "../run"), ("/loop", "loop")]
    assert settle("/var/run/x", links) == "/run/x"
    assert settle("/bin", links) == "/usr/bin"
    assert settle("/binary", links) == "/binary"
    assert settle("/loop/x", links) == "/loop/x"
    mount = MountFact(source="/data", target="/var/run/data", readonly=True, file=False)
    assert "/run/data" in [bind.target for bind in binds(mounts=[mount])]


def test_message_queues_are_shown_where_the_kernel_has_them() -> None:
    bare = LAYOUT
    assert not [step for step in base_steps(bare, "full", network=True) if isinstance(step, Queues)]
    layout = msgspec.structs.replace(bare, queues=True)
    assert Queues("/dev/mqueue") in base_steps(layout, "full", network=True)
    assert "/dev/mqueue" in directories(layout)
    granted = dict(landlock.base(7, layout, network=True).rules)
    assert granted["/dev/mqueue"] & landlock.MAKE_REG
