"""CLIP's tokenizer, as Stable Diffusion exports ship it, through the `tokenizers` library.

Source: Radford et al. 2021, https://github.com/openai/CLIP, clip/simple_tokenizer.py. It returns the same ids as
transformers' CLIPTokenizer, which would be a large dependency for reading two text files.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:  # the extra "sd"
    from tokenizers import AddedToken, Tokenizer

CLIP_LENGTH = 77  # tokens per prompt, including start and end; the default if the folder has no settings
SPECIAL_TOKENS = {  # CLIP's own; the defaults if the folder has no settings
    "bos_token": "<|startoftext|>",
    "eos_token": "<|endoftext|>",
    "unk_token": "<|endoftext|>",
    "pad_token": "<|endoftext|>",
}
# Contractions, runs of letters, single digits, runs of everything else; white space is removed.
WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


class ClipTokenizer:
    """Converts prompts to the fixed-length ids that a CLIP text encoder takes."""

    def __init__(self, backend: Tokenizer, special_tokens: dict[str, str], length: int) -> None:
        self.length = length
        self._backend = backend
        ids = backend.get_vocab(with_added_tokens=True)
        self._start, self._end, self._pad = (
            ids[special_tokens[name]] for name in ("bos_token", "eos_token", "pad_token")
        )

    @classmethod
    def from_folder(cls, folder: str | Path) -> ClipTokenizer:
        """Read vocab.json and merges.txt, and the settings beside them if they exist.

        Args:
            folder: the `tokenizer` folder of an exported Stable Diffusion.

        Raises:
            FileNotFoundError: if vocab.json or merges.txt is missing.
            ValueError: if a file is invalid, or a special token is not in vocab.json.
        """
        folder = Path(folder)
        settings = _read_json(folder / "tokenizer_config.json")
        # The map takes precedence: Stable Diffusion 2.1 pads with "!" there, and the settings have another token.
        named = {**settings, **_read_json(folder / "special_tokens_map.json")}
        tokens = {key: named.get(key) or default for key, default in SPECIAL_TOKENS.items()}
        backend = _build_backend(folder, tokens)
        length = int(settings.get("model_max_length") or CLIP_LENGTH)
        return cls(backend, {key: _text(token) for key, token in tokens.items()}, length)

    def encode(self, prompts: list[str]) -> NDArray[np.int64]:
        """Encode prompts: start, tokens, end, padding; the part that does not fit is cut off, with a warning.

        Args:
            prompts: N texts; the empty text is the "no prompt" of classifier-free guidance.

        Returns:
            (N, length) int64 ids.
        """
        return np.array([self._encode_one(prompt) for prompt in prompts], np.int64).reshape(len(prompts), self.length)

    @property
    def room(self) -> int:
        """How many tokens of a prompt fit, without the start and the end."""
        return self.length - 2

    def count(self, prompt: str) -> int:
        """Return how many tokens a prompt has, without the start and the end."""
        return len(self._backend.encode(prompt, add_special_tokens=False).ids)

    def _encode_one(self, prompt: str) -> list[int]:
        encoding = self._backend.encode(prompt, add_special_tokens=False)
        room = self.room
        if len(encoding.ids) > room:
            cut = prompt[encoding.offsets[room][0] :].strip()
            warnings.warn(f"the prompt is longer than {room} tokens; cut off: {cut!r}", stacklevel=3)
        ids = [self._start, *encoding.ids[:room], self._end]
        return ids + [self._pad] * (self.length - len(ids))


def _build_backend(folder: Path, tokens: dict[str, Any]) -> Tokenizer:
    from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers

    vocabulary, merges = folder / "vocab.json", folder / "merges.txt"
    for path in (vocabulary, merges):
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing: a CLIP tokenizer folder has vocab.json and merges.txt")
    try:
        model = models.BPE.from_file(
            str(vocabulary),
            str(merges),
            continuing_subword_prefix="",
            end_of_word_suffix="</w>",
            unk_token=_text(tokens["unk_token"]),
        )
    except Exception as error:  # the library raises bare Exception
        raise ValueError(f"{vocabulary} and the merges.txt beside it do not fit: {error}") from error
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
    """Return the object in an optional settings file; {} if the file does not exist."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} does not contain a JSON object")
    return content


def _text(token: str | dict[str, Any]) -> str:
    """Return a special token's text; the files contain the text itself, or an object with it."""
    return token if isinstance(token, str) else str(token["content"])


def _added(token: str | dict[str, Any]) -> AddedToken:
    from tokenizers import AddedToken

    if isinstance(token, str):
        return AddedToken(token, special=True, normalized=False)
    flags = {key: bool(token.get(key)) for key in ("single_word", "lstrip", "rstrip", "normalized")}
    return AddedToken(_text(token), special=True, **flags)
