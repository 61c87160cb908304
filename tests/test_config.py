from pathlib import Path

import pytest

from rlaif.config import Config, load_config
from rlaif.errors import ConfigError


class Inner(Config):
    prompt: str = ""
    rate: float = 0.0


class Outer(Config):
    inner: Inner = Inner()
    items: tuple[Inner, ...] = ()
    name: str


def load(tmp_path: Path, text: str) -> Outer:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    return load_config(path, Outer)


def test_a_number_that_yaml_reads_as_text_is_still_a_number(tmp_path: Path) -> None:
    assert load(tmp_path, "name: a\ninner: {rate: 5e-7}").inner.rate == 5e-7


def test_all_errors_are_told_at_once_with_the_nearest_right_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, "inner: {promt: x, rate: fast}\nitems: [{rat: 1}]")
    lines = str(error.value).splitlines()
    assert len(lines) == 4
    assert any("unknown key 'inner.promt' (did you mean 'prompt'?)" in line for line in lines)
    assert any("unknown key 'items.0.rat' (did you mean 'rate'?)" in line for line in lines)
    assert any("inner.rate" in line and "'fast'" in line for line in lines)
    assert any("missing key 'name'" in line for line in lines)
    assert all("x.yaml" in line for line in lines)


def test_broken_yaml_is_told_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"x.yaml:2: broken YAML"):
        load(tmp_path, "name: a\n  b: [")
    with pytest.raises(ConfigError, match="expected a mapping"):
        load(tmp_path, "- a")
    with pytest.raises(ConfigError, match="no such file"):
        load_config(tmp_path / "none.yaml", Outer)
