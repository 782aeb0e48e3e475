"""Lines of keys: every path that tomllib finds has one, and it is the right one."""

import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandboxd.specfile.lines import line_of, locate

DOCUMENT = '''# comment with [brackets] and = signs
name = "a # b"        # 2
"quoted.key" = 1      # 3
'lit' . "e\\u0073c" = 2   # 4
long = """
[not.a.header]
x = 1 \\" """" # 5
lit2 = \'\'\'
y = 2\'\'\'

list = [ # 11
  1, "two, ]", # 12
  { a = 1, "b]" = [ 3 ] }, # 13
  [
    4, # 15
  ],
] # 17
inline = { x.y = 1, z = "}" } # 18
[table."dotted.name" . sub] # 19
k = 1979-05-27 07:32:00Z # 20

[[array]] # 22
k = 1
[[array]] # 24
k = 2
[array.sub] # 26
k = 3
[[array.inner]] # 28
k = 4
[[array.inner]] # 30
k = 5
[table] # 32
k = -0x10 # 33
'''.replace("-0x10", "0x10")


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("name",), 2),
        (("quoted.key",), 3),
        (("lit",), 4),
        (("lit", "esc"), 4),
        (("long",), 5),
        (("lit2",), 8),
        (("list",), 11),
        (("list", 0), 12),
        (("list", 1), 12),
        (("list", 2, "a"), 13),
        (("list", 2, "b]", 0), 13),
        (("list", 3), 14),
        (("list", 3, 0), 15),
        (("inline", "x", "y"), 18),
        (("inline", "z"), 18),
        (("table", "dotted.name", "sub"), 19),
        (("table", "dotted.name", "sub", "k"), 20),
        (("array",), 22),
        (("array", 0), 22),
        (("array", 0, "k"), 23),
        (("array", 1), 24),
        (("array", 1, "sub", "k"), 27),
        (("array", 1, "inner", 0, "k"), 29),
        (("array", 1, "inner", 1, "k"), 31),
        (("table", "k"), 33),
    ],
)
def test_every_way_to_write_a_key(path, line):
    tomllib.loads(DOCUMENT)
    assert locate(DOCUMENT)[path] == line


def test_what_is_not_there_has_the_line_around_it():
    lines = locate("[a]\n\nb = [1]\n")
    assert line_of(lines, ("a", "b", 7)) == 3
    assert line_of(lines, ("a", "c", "d")) == 1
    assert line_of(lines, ("z",)) is None


def paths(value: object, path: tuple[str | int, ...] = ()):
    """Every path of a parsed document."""
    if path:
        yield path
    if isinstance(value, dict):
        for key, item in value.items():
            yield from paths(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from paths(item, (*path, index))


# -- documents made statement by statement, so that each path's line is known -------------------------------------------------

KEY = st.text(alphabet="ab.]=# \"'\\é", min_size=0, max_size=4)


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def key_styles(key: str):
    styles = [st.just(quoted(key))]
    if "'" not in key:
        styles.append(st.just(f"'{key}'"))
    if key and key.isascii() and key.isalnum():
        styles.append(st.just(key))
    return st.one_of(styles)


@st.composite
def values(draw, depth=0):
    """A value's text."""
    kind = draw(st.integers(0, 7 if depth < 3 else 5))
    text = draw(KEY)
    if kind == 0:
        return quoted(text)
    if kind == 1:
        return "'" + text.replace("'", "") + "'"
    if kind == 2:
        return '"""\n' + text.replace("\\", "\\\\").replace('"', '\\"') + '\n[x]\n""' + '"'
    if kind == 3:
        return "'''" + text.replace("'", "") + "\n'''"
    if kind in (4, 5):
        return draw(st.sampled_from(["1", "-1.5e3", "true", "inf", "1979-05-27T07:32:00Z", "0b11"]))
    space = draw(st.sampled_from(["", " ", "\n", " # ] } \n"]))
    if kind == 6:
        items = draw(st.lists(values(depth=depth + 1), max_size=3))
        return "[" + space + ("," + space).join(items) + (space if items else "") + "]"
    keys = draw(st.lists(KEY, max_size=3, unique=True))
    pairs = [f"{draw(key_styles(key))} = {draw(values(depth=depth + 1).filter(lambda v: True))}" for key in keys]
    return "{ " + ", ".join(pairs) + " }"


@st.composite
def documents(draw):
    """A TOML text of headers and pairs; some are invalid (a table twice), and those are skipped by the test."""
    statements = []
    for _ in range(draw(st.integers(0, 8))):
        keys = [draw(key_styles(draw(KEY))) for _ in range(draw(st.integers(1, 3)))]
        dotted = draw(st.sampled_from([".", " . "])).join(keys)
        kind = draw(st.integers(0, 4))
        if kind == 0:
            statements.append(f"[{dotted}]")
        elif kind == 1:
            statements.append(f"[[ {dotted} ]] # x")
        else:
            statements.append(f"{dotted} = {draw(values())}")
        if draw(st.booleans()):
            statements.append(draw(st.sampled_from(["", "# [a]", "  "])))
    return statements


@given(documents())
def test_every_path_of_a_valid_text_is_found(statements):
    text = "\n".join(statements)
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    lines = locate(text)
    assert set(paths(tree)) == set(lines)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())


@given(documents(), KEY)
def test_a_pair_is_found_on_the_line_it_was_written(statements, key):
    """Put one more pair somewhere at the top: its line is where it was put, whatever stands around it."""
    marker = f"{quoted('marker' + key)} = 1"
    text = "\n".join([*statements[:1], "# x", marker]) if statements and "=" in statements[0] else marker
    try:
        tree = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    [path] = [path for path in paths(tree) if str(path[-1]) == "marker" + key]
    assert text.split("\n")[locate(text)[path] - 1] == marker


@given(st.text(max_size=80))
def test_any_text_gives_lines(text):
    assert all(line >= 1 for line in locate(text).values())
