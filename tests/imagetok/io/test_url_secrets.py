"""What of a URL is shown and stored."""

import pickle

import pytest

from imagetok.data import describe, parse_spec
from imagetok.data.config import WebDatasetConfig
from imagetok.errors import ConfigError
from imagetok.io.url_secrets import public_url, split_user, without_secrets


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("https://u:pw@host:8/a{0..9}.tar?sig=x/y&t=1#f", "https://host:8/a{0..9}.tar"),
        ("https://u@host/a.tar", "https://host/a.tar"),
        ("https://a:b@c:d@host/x", "https://host/x"),
        ("s3://key:secret@bucket/a b.tar", "s3://bucket/a b.tar"),
        ("{http://u:p@a/1.tar,http://v:q@b/2.tar}", "{http://a/1.tar,http://b/2.tar}"),
        ('http://h/a.tar?one=two words\' and "more"', "http://h/a.tar"),
        ("hf://datasets/user/name@main/a.tar", "hf://datasets/user/name@main/a.tar"),
        ("/data/what?/me@here#1.tar", "/data/what?/me@here#1.tar"),
    ],
)
def test_a_url_is_stored_without_its_secrets(place, expected):
    assert public_url(place) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("http://u:p@h/a.tar?s=1: cannot", "http://h/a.tar: cannot"),
        ("401, url='https://u:p@h/a?sig=abc'", "401, url='https://h/a'"),
        ("see https://h/page. Then", "see https://h/page. Then"),
        ("is it http://h/a?", "is it http://h/a?"),
        ("(http://h/a?s=abc), and a@b?c", "(http://h/a), and a@b?c"),
    ],
)
def test_a_message_is_shown_without_secrets(text, expected):
    assert without_secrets(text) == expected
    assert str(ConfigError(text)) == expected
    assert str(pickle.loads(pickle.dumps(ConfigError(text)))) == expected


def test_secrets_that_stand_alone_are_removed_where_they_are_known():
    url = "https://user:p%40ssword@h/a.tar?signature=abc%2Fdef&x=1"
    for secret in ("signature=abc%2Fdef&x=1", "abc/def", "abc%2Fdef", "p@ssword", "p%40ssword"):
        assert without_secrets(f"retries for /a.tar?{secret} on h", url) == (
            "retries for /a.tar?... on h"
        )


def test_a_user_and_a_password_are_taken_out():
    assert split_user("http://u%3A:p%40@h:1/a?b") == ("http://h:1/a?b", "u:", "p@")
    assert split_user("http://h/a@b") == ("http://h/a@b", None, "")


def test_configs_use_secrets_and_store_none():
    spec = "webdataset,shards=https://u:pw@h/a.tar?sig=abc,test=https://h/b.tar?sig=def"
    config, split = parse_spec(spec)
    assert isinstance(config, WebDatasetConfig)
    assert config.shards == "https://u:pw@h/a.tar?sig=abc" and "sig=def" in config.test
    assert pickle.loads(pickle.dumps(config)).shards == config.shards
    stored = [describe(config, split), str(config.model_dump()), config.model_dump_json()]
    assert stored[0] == "webdataset:all,shards=https://h/a.tar,test=https://h/b.tar"
    assert not any(secret in text for text in stored for secret in ("pw", "abc", "def", "sig"))
    for bad in (f"{spec},label", f"{spec},labels=x", f"{spec},test=2", f"{spec},holdout=7"):
        with pytest.raises(ConfigError) as refused:
            parse_spec(bad)
        assert not any(secret in str(refused.value) for secret in ("pw@", "abc", "def")), bad
