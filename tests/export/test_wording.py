"""Words that a file chose stay on their line and cannot steer a terminal."""

from kbn.export.wording import one_line, quote


def test_quoted_names_are_short_and_printable():
    assert quote("conv/kernel") == "'conv/kernel'"
    assert quote("\x1b[2Ja\nb") == r"'\x1b[2Ja\nb'"
    long = quote("a" * 10_000 + "z")
    assert len(long) <= 120
    assert long.startswith("'aaa")
    assert long.endswith("z'")
    assert quote((3, 4)) == "(3, 4)"
    assert len(quote(tuple(range(1000)))) < 40


def test_one_line():
    assert one_line(" \x1b[1mshapes\x1b[0m\n (3,)\tdiffer. ") == "shapes (3,) differ"
    assert one_line("a\x00b\x9bc\u202ed") == "a b c d"
    assert len(one_line("long " * 1000)) <= 300
