"""A GGUF model made on the spot: the llama architecture for real, random weights, 6.8 MB, 0.1 s.

It recites. Each token's row of the output matrix is the embedding of the token before it in a fixed chain, and the
random layers in between are too weak to drown that. So the text is known in advance, whatever the prompt, and an answer
that goes on from a prefix can be compared letter by letter. The chain is `aa ab … zz`; on its way stand an é and a 💡
in single bytes, so that a token may end in the middle of a character.
"""

from __future__ import annotations

import string
from pathlib import Path

import gguf
import numpy as np

_WIDTH, _LAYERS, _HEADS, _HEADS_KV, _FEED_FORWARD = 256, 4, 4, 2, 688
_START, _END = "<|im_start|>", "<|im_end|>"
_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

WORDS = [first + second for first in string.ascii_lowercase for second in string.ascii_lowercase]
RECITATION = "".join(
    [*(f" {word}" for word in WORDS[:100]), "é", *(f" {word}" for word in WORDS[100:200]), "💡"]
    + [f" {word}" for word in WORDS[200:]]
)
"""What the model says, from the start of an answer on. It ends here, or begins anew where it was made endless."""


def make_model(path: Path, *, endless: bool = False, layers: int = _LAYERS) -> Path:
    """More `layers` make it slower: each of them costs about 0.1 ms a token on one core."""
    tokens, merges = _vocabulary()
    number = {token: index for index, token in enumerate(tokens)}
    random = np.random.default_rng(1)
    embedding = random.standard_normal((len(tokens), _WIDTH), dtype=np.float32)
    output = np.zeros_like(embedding)
    chain = [number[token] for token in _chain()]
    line_feed = number[_alphabet()[ord("\n")]]
    for before, after in zip([line_feed, *chain], chain, strict=False):
        output[after] += embedding[before]
    output[chain[0] if endless else number[_END]] += embedding[chain[-1]]
    writer = gguf.GGUFWriter(path, "llama")
    _write_header(writer, tokens, merges, layers)
    writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
    writer.add_tensor("output_norm.weight", np.ones(_WIDTH, dtype=np.float32))
    writer.add_tensor("output.weight", (output * 0.5).astype(np.float16))
    for layer in range(layers):
        _write_layer(writer, layer, random)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _alphabet() -> dict[int, str]:
    """How byte-level BPE writes each byte as one visible character (the table of GPT-2)."""
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {byte: chr(byte) for byte in visible} | {byte: chr(256 + index) for index, byte in enumerate(hidden)}


def _vocabulary() -> tuple[list[str], list[str]]:
    space = _alphabet()[ord(" ")]
    letters = string.ascii_lowercase
    tokens = [*_alphabet().values(), *(space + letter for letter in letters), *(space + word for word in WORDS)]
    merges = [f"{space} {letter}" for letter in letters] + [f"{space}{word[0]} {word[1]}" for word in WORDS]
    return [*tokens, _START, _END], merges


def _chain() -> list[str]:
    alphabet = _alphabet()
    words = [alphabet[ord(" ")] + word for word in WORDS]
    accent, lamp = ([alphabet[byte] for byte in character.encode()] for character in "é💡")
    return [*words[:100], *accent, *words[100:200], *lamp, *words[200:]]


def _write_header(writer: gguf.GGUFWriter, tokens: list[str], merges: list[str], layers: int) -> None:
    writer.add_name("tiny reciter")
    writer.add_context_length(32768)
    writer.add_embedding_length(_WIDTH)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(_FEED_FORWARD)
    writer.add_head_count(_HEADS)
    writer.add_head_count_kv(_HEADS_KV)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(tokens))
    writer.add_rope_dimension_count(_WIDTH // _HEADS)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    normal, control = gguf.TokenType.NORMAL, gguf.TokenType.CONTROL
    writer.add_token_types([*([normal] * (len(tokens) - 2)), control, control])
    writer.add_token_merges(merges)
    writer.add_bos_token_id(tokens.index(_START))
    writer.add_eos_token_id(tokens.index(_END))
    writer.add_add_bos_token(False)
    writer.add_chat_template(_TEMPLATE)


def _write_layer(writer: gguf.GGUFWriter, layer: int, random: np.random.Generator) -> None:
    shapes = {
        "attn_q": (_WIDTH, _WIDTH),
        "attn_k": (_WIDTH * _HEADS_KV // _HEADS, _WIDTH),
        "attn_v": (_WIDTH * _HEADS_KV // _HEADS, _WIDTH),
        "attn_output": (_WIDTH, _WIDTH),
        "ffn_gate": (_FEED_FORWARD, _WIDTH),
        "ffn_up": (_FEED_FORWARD, _WIDTH),
        "ffn_down": (_WIDTH, _FEED_FORWARD),
    }
    for name in ("attn_norm", "ffn_norm"):
        writer.add_tensor(f"blk.{layer}.{name}.weight", np.ones(_WIDTH, dtype=np.float32))
    for name, shape in shapes.items():
        weights = random.standard_normal(shape, dtype=np.float32) * (0.02 / shape[1] ** 0.5)
        writer.add_tensor(f"blk.{layer}.{name}.weight", weights.astype(np.float16))
