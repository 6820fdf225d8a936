"""`imagetok inspect`: what somebody else wrote cannot steer a terminal."""

from cli.inspect import _lines


def test_control_characters_of_a_folder_are_not_printed():
    tree = {"kind\x1b[2J": "a\x9b31m\u202eb\r\n", "nested": {"\x1b]0;x\x07": ["\x1b[1m", 2.5]}}
    text = "\n".join(_lines(tree))
    assert all(c.isprintable() or c == "\n" for c in text)
    assert "kind" in text and "2.5" in text and len(text.splitlines()) == 3
