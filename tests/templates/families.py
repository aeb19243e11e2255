"""Small tokenizers with the traits of real ones, each with the chat template of its family (the files beside this one)."""

from functools import cache
from pathlib import Path

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

FOLDER = Path(__file__).parent
SENTENCES = ["The quick brown fox jumps over the lazy dog.\n\n", "the answer of the other question is another answer\n\n", "1 2 3\n\n"] * 3
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""Where Llama 3 parts a text, which keeps line ends together."""
CHATML = ("<|im_start|>", "<|im_end|>")
LLAMA = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TURNS = ("<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>")
TEKKEN = ("<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]")


def byte_level(special, normalizer=None):
    """Every byte its own token, no merges."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={symbol: index for index, symbol in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if normalizer:
        tokenizer.normalizer = normalizer
    return _finished(tokenizer, special)


def merging(special, pattern=WORDS):
    """Byte-level with learnt merges, white space left out of offsets and, as Llama's, a BOS put in front of text."""
    tokenizer = Tokenizer(models.BPE())
    parts = pre_tokenizers.Split(Regex(pattern), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(SENTENCES, trainers.BpeTrainer(vocab_size=340, initial_alphabet=alphabet, show_progress=False))
    fast = _finished(tokenizer, special)
    bos = processors.TemplateProcessing(single=f"{special[0]} $A", special_tokens=[(special[0], fast.bos_token_id)])
    fast.backend_tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), bos])
    return fast


def sentence_piece(special, prepends=True):
    """Spaces as ▁, bytes for what the vocabulary lacks; with `prepends`, a space put in front of text, as Llama 2's and Mistral's."""
    merges = [("t", "h"), ("▁", "th"), ("▁th", "e"), ("▁", "a"), ("i", "n"), ("▁", "in")]
    pieces = [
        "<unk>",
        *(f"<0x{byte:02X}>" for byte in range(256)),
        "▁",
        *"abcdefghijklmnopqrstuvwxyz",
        *("".join(merge) for merge in merges),
    ]
    vocab = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if prepends:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        tokenizer.normalizer = normalizers.Replace(" ", "▁")
    strip = [decoders.Strip(content=" ", left=1)] if prepends else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    return _finished(tokenizer, special)


def _finished(tokenizer, special):
    tokenizer.add_special_tokens(list(special))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=special[0], eos_token=special[1])


BUILDERS = {
    "smollm2": lambda: byte_level(CHATML),
    "qwen2_5": lambda: byte_level(CHATML, normalizers.NFC()),
    "qwen3": lambda: byte_level(CHATML, normalizers.NFC()),
    "llama3": lambda: merging(LLAMA),
    "llama3_1": lambda: merging(LLAMA),
    "llama3_2": lambda: merging(LLAMA),
    "gemma2": lambda: sentence_piece(TURNS, prepends=False),
    "gemma3": lambda: sentence_piece(TURNS, prepends=False),
    "mistral_v01": lambda: sentence_piece(("<s>", "</s>")),
    "mistral_v3": lambda: sentence_piece(("<s>", "</s>", "[INST]", "[/INST]")),
    "mistral_v7_tekken": lambda: merging(TEKKEN),
    "none": lambda: byte_level(("<s>", "</s>")),
    "none_with_bos": lambda: merging(("<s>", "</s>")),
    "none_sentence_piece": lambda: sentence_piece(("<s>", "</s>")),
}
FAMILIES = sorted(BUILDERS)
END = {"gemma2": "<end_of_turn>", "gemma3": "<end_of_turn>", "smollm2": "<|im_end|>", "qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>"}
END |= {"llama3": "<|eot_id|>", "llama3_1": "<|eot_id|>", "llama3_2": "<|eot_id|>"}
FOLDS = {"gemma2", "mistral_v01", "mistral_v3"}
"""Families whose templates take no system turn."""


def end_of(family):
    """The token that ends an answer."""
    return END.get(family, "</s>")


def template_of(family):
    """The chat template's text; None where the family has none."""
    return None if family.startswith("none") else (FOLDER / f"{family}.jinja").read_text()


@cache
def shared_tokenizer(family):
    """The family's tokenizer, one for all tests; none may change it."""
    return fresh_tokenizer(family)


def fresh_tokenizer(family):
    """The family's tokenizer, to be changed at will."""
    tokenizer = BUILDERS[family]()
    tokenizer.chat_template = template_of(family)
    return tokenizer
