"""CLIP's tokenizer, as Stable Diffusion exports ship it, through the `tokenizers` library.

Source: Radford et al. 2021, https://github.com/openai/CLIP, clip/simple_tokenizer.py; equal to
transformers' CLIPTokenizer, which is too large a dependency for reading two text files.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

CLIP_LENGTH = 77  # tokens per prompt, start and end included, where the folder does not say
SPECIAL_TOKENS = {  # CLIP's own, where the folder does not say
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
# Contractions, runs of letters, single digits, runs of everything else; white space is dropped.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Turns prompts into the fixed-length ids that a CLIP text encoder takes."""

    def __init__(self, backend: Tokenizer, special_tokens: dict[str, str], length: int) -> None:
        self.length = length
        self._backend = backend
        ids = backend.get_vocab(with_added_tokens=True)
        self._start, self._end, self._pad = (
            ids[special_tokens[name]] for name in ("bos_token", "eos_token", "pad_token")
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> ClipTokenizer:
        """Read vocab.json and merges.txt, and the settings beside them if there are any.

        Args:
            folder: the `tokenizer` folder of an exported Stable Diffusion.

        Raises:
            FileNotFoundError: vocab.json or merges.txt is missing.
            ValueError: a file is not what its name says, or a special token is not in vocab.json.
        """
        folder = Path(folder)
        settings = _read_json(folder / "tokenizer_config.json")
        # The map wins: Stable Diffusion 2.1 pads with "!" there and names another in the settings.
        named = {**settings, **_read_json(folder / "special_tokens_map.json")}
        tokens = {key: named.get(key) or default for key, default in SPECIAL_TOKENS.items()}
        backend = _build_backend(folder, tokens)
        length = int(settings.get("model_max_length") or CLIP_LENGTH)
        return cls(backend, {key: _text(token) for key, token in tokens.items()}, length)

    def encode(self, prompts: list[str]) -> NDArray[np.int64]:
        """Encode prompts: start, tokens, end, padding; what does not fit is cut, with a warning.

        Args:
            prompts: N texts; an empty one is the "no prompt" of classifier-free guidance.

        Returns:
            (N, length) int64 ids.
        """
        return np.array([self._encode_one(prompt) for prompt in prompts], np.int64).reshape(len(prompts), self.length)

    def _encode_one(self, prompt: str) -> list[int]:
        encoding = self._backend.encode(prompt, add_special_tokens=False)
        room = self.length - 2  # for the start and the end
        if len(encoding.ids) > room:
            cut = prompt[encoding.offsets[room][0] :].strip()
            warnings.warn(f"the prompt is longer than {room} tokens; cut off: {cut!r}", stacklevel=3)
        ids = [self._start, *encoding.ids[:room], self._end]
        return ids + [self._pad] * (self.length - len(ids))


def _build_backend(folder: Path, tokens: dict[str, Any]) -> Tokenizer:
    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    for path in (vocabulary, merges):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: a CLIP tokenizer folder holds vocab.json and merges.txt")
    try:
        model = models.BPE.from_file(
            str(vocabulary),
            str(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=_text(tokens["unk_token"]),
        )
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{vocabulary} and merges.txt beside it do not fit: {error}") from error
    backend = Tokenizer(model)
    for key, token in tokens.items():
        if backend.token_to_id(_text(token)) is None:
            raise ValueError(f"{key} {_text(token)!r} is not in {vocabulary}")
    backend.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.add_special_tokens([_added(token) for token in tokens.values()])
    return backend


def _read_json(path: Path) -> dict[str, Any]:
    """The object in an optional settings file; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds no JSON object")
    return content


def _text(token: str | dict[str, Any]) -> str:
    """A special token's text; the files hold either the text or an object around it."""
    return token if isinstance(token, str) else str(token["content"])


def _added(token: str | dict[str, Any]) -> AddedToken:
    if isinstance(token, str):
        return AddedToken(token, special=True, normalized=False)
    flags = {key: bool(token.get(key)) for key in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(_text(token), special=True, **flags)
