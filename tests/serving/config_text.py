"""Configurations of tests: a text becomes a file, which is read."""

import re

import pytest

from ascend_parallel import ConfigError
from ascend_parallel.serving.config_file import read_config


def reader(folder):
    """Return a function that writes a configuration to a folder and reads it."""

    def read(text):
        path = folder / "config.yml"
        path.write_text(text)
        return read_config(path)

    return read


def problems_of(read, text):
    """Return what is wrong with a configuration, as (line, column, message)."""
    with pytest.raises(ConfigError) as caught:
        read(text)
    found = [re.fullmatch(r".*/config\.yml:(\d+):(\d+): (.+)", line) for line in caught.value.problems]
    assert str(caught.value).splitlines() == caught.value.problems
    return [(int(match[1]), int(match[2]), match[3]) for match in found]
