"""Our tokenizer returns the same ids as transformers' CLIPTokenizer."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from transformers import CLIPTokenizer

if TYPE_CHECKING:
    from ascend_parallel.diffusion.tokenizer import ClipTokenizer

TINY = Path(__file__).resolve().parents[2] / "examples" / "sd21" / "tiny" / "tokenizer"
PROMPTS = [
    "",
    " ",
    "a red circle on white",
    "A RED Circle on WHITE",
    "  a   red\tcircle\non  white  ",
    "an orange cross, on a pink background.",
    "red-circle/blue_square",
    "a red circle!",
    "wow!!! a ring ! ! on gray",
    "it's what they've done, isn't it? I'll say we'd",
    "3 red circles, 12 squares and 1,000.5 rings",
    "un café à Zürich, où l'été",
    "cafe\u0301 with a combining accent",
    "ein großer Kreis; ΑΒΓ Σας",
    "赤い丸 красный круг دائرة حمراء",
    "a red 🔴 circle 👩‍🎨 on ⬜️",
    "a\u00a0red\u2003circle\u200b on\u3000white",
    "tabs\tand\r\nnew lines\x00and nulls",
    "½ x² №5 ﬁne",
    "<|startoftext|>a red circle<|endoftext|> on white",
    "<|STARTOFTEXT|> loud",
    "reda redredcircle circlecircle",
    "$%^&*()[]{}~`'\"",
]
LONG_PROMPTS = ["a red circle on white " * 20, "x" * 500, "! " * 100, "🔴" * 40]


@pytest.fixture(scope="module")
def ours() -> ClipTokenizer:
    from ascend_parallel.diffusion.tokenizer import ClipTokenizer

    return ClipTokenizer.from_folder(TINY)


def theirs(prompts: list[str]) -> Any:
    """Return the ids of transformers, with the arguments of the Stable Diffusion pipeline."""
    reference = CLIPTokenizer.from_pretrained(str(TINY))
    return reference(prompts, padding="max_length", max_length=77, truncation=True)["input_ids"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the tiny tokenizer, to modify."""
    return Path(shutil.copytree(TINY, tmp_path / "tokenizer"))


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("prompt", PROMPTS)
def test_ids_equal_transformers(ours: ClipTokenizer, prompt: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = ours.encode([prompt])
    assert ids.tolist() == theirs([prompt])


@pytest.mark.parametrize("prompt", LONG_PROMPTS, ids=lambda prompt: prompt[:8])
def test_long_prompts_are_cut_off_like_in_transformers(ours: ClipTokenizer, prompt: str) -> None:
    with pytest.warns(UserWarning, match="longer than 75 tokens; cut off"):
        ids = ours.encode([prompt])
    assert ids.tolist() == theirs([prompt])


def test_the_warning_names_the_words_that_are_cut_off(ours: ClipTokenizer) -> None:
    with pytest.warns(UserWarning, match="cut off: 'blue square'"):
        ours.encode(["a " * 75 + "blue square"])


def test_a_prompt_that_just_fits_is_not_cut(ours: ClipTokenizer) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = ours.encode(["a " * 75])
    assert ids.tolist() == theirs(["a " * 75])


def test_known_words_are_one_token_each(ours: ClipTokenizer) -> None:
    ids = ours.encode(["a red circle on white"])[0]
    assert np.count_nonzero(ids) == 5 + 2  # and start and end; the padding "!" is id 0


def test_a_batch_is_one_array_of_int64(ours: ClipTokenizer) -> None:
    ids = ours.encode(["", "a red circle"])
    assert (ids.shape, ids.dtype) == ((2, 77), np.dtype(np.int64))
    assert ours.encode([]).shape == (0, 77)


def test_length_and_padding_are_read_from_the_folder(folder: Path) -> None:
    from ascend_parallel.diffusion.tokenizer import ClipTokenizer

    edit(folder / "tokenizer_config.json", model_max_length=9)
    edit(folder / "special_tokens_map.json", pad_token={"content": "<|endoftext|>"})
    ids = ClipTokenizer.from_folder(folder).encode(["a ring"])[0]
    assert ids.shape == (9,)
    assert (ids[3:] == ids[3]).all()


def test_settings_are_optional(folder: Path) -> None:
    from ascend_parallel.diffusion.tokenizer import ClipTokenizer

    (folder / "tokenizer_config.json").unlink()
    (folder / "special_tokens_map.json").unlink()
    ids = ClipTokenizer.from_folder(folder).encode(["a ring"])[0]
    assert ids.shape == (77,)
    assert (ids[3:] == ids[3]).all()


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    from ascend_parallel.diffusion.tokenizer import ClipTokenizer

    (folder / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"{name} is missing"):
        ClipTokenizer.from_folder(folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("vocab.json", "{", r"vocab\.json .* do not fit"),
        ("vocab.json", "{}", r"vocab\.json .* do not fit"),
        ("merges.txt", "#version: 0.2\nq x\n", r"merges\.txt .* do not fit"),
        ("tokenizer_config.json", "{", "is not JSON"),
        ("tokenizer_config.json", "[]", "does not contain a JSON object"),
    ],
)
def test_an_invalid_file_is_named(folder: Path, name: str, text: str, message: str) -> None:
    from ascend_parallel.diffusion.tokenizer import ClipTokenizer

    (folder / name).write_text(text)
    with pytest.raises(ValueError, match=message):
        ClipTokenizer.from_folder(folder)


def test_a_special_token_that_is_not_in_the_vocabulary_is_named(folder: Path) -> None:
    from ascend_parallel.diffusion.tokenizer import ClipTokenizer

    edit(folder / "special_tokens_map.json", pad_token="<|padding|>")
    with pytest.raises(ValueError, match=r"pad_token '<\|padding\|>' is not in .*vocab\.json"):
        ClipTokenizer.from_folder(folder)
