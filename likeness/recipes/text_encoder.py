"""The tiny family's text encoder: a UMT5EncoderModel and its own tokenizer, trained to tell what captions say.

`python -m likeness.recipes.text_encoder --output DIR --minutes 4` learns a byte-fallback BPE vocabulary from captions of the
drawn world, then trains the encoder together with throw-away heads that read place, number of people and each person's noun,
movement, expression and shirt off its outputs. The embeddings that carry this are all that a video model needs of it.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from torch import nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from likeness.train.optimiser import Optimiser
from likeness.world import CLOTHES, EXPRESSIONS, PLACES, TURNS, Clip, caption_of, clip_of
from likeness.world.clip import MAX_PEOPLE

MAX_TOKENS, VOCABULARY, WIDTH = 64, 900, 128
_PER_PERSON = (3, len(TURNS), len(EXPRESSIONS), len(CLOTHES))  # noun, movement, expression, shirt


def make_tokenizer(captions: list[str]) -> PreTrainedTokenizerFast:
    """A lower-casing BPE tokenizer with byte fallback, T5's special tokens and MAX_TOKENS tokens a prompt."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    special = ["<pad>", "</s>", "<unk>"]
    alphabet = [chr(code) for code in range(33, 127) if not chr(code).isupper()]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - 256,
        special_tokens=[*special, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=MAX_TOKENS
    )


class _Reader(nn.Module):
    """Queries, one for the scene and one a person, that read a clip's facts off the encoder's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(1, 1 + MAX_PEOPLE, WIDTH) * 0.5)
        self.attention = nn.MultiheadAttention(WIDTH, 4, batch_first=True)
        self.scene = nn.Linear(WIDTH, len(PLACES) + MAX_PEOPLE)
        self.person = nn.Linear(WIDTH, sum(_PER_PERSON))

    def forward(self, embeds: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        queries = self.queries.expand(embeds.shape[0], -1, -1)
        read = self.attention(queries, embeds, embeds, key_padding_mask=mask == 0, need_weights=False)[0]
        return self.scene(read[:, 0]), self.person(read[:, 1:])


def _facts(clip: Clip, caption: str) -> list[int]:
    """place, number of people - 1, then four facts a person; -1 where there is no such person."""
    facts = [clip.place, len(clip.people) - 1]
    # The noun is what the caption says, which may be less than what is so.
    words = [word for word in caption.lower().replace(",", " ").split() if word in ("person", "man", "woman")]
    for slot in range(MAX_PEOPLE):
        if slot < len(clip.people):
            noun = ("person", "man", "woman").index(words[slot])
            facts += [noun, clip.turns[slot], clip.expressions[slot], clip.clothes[slot]]
        else:
            facts += [-1] * 4
    return facts


def _corpus(count: int, rng: np.random.Generator) -> tuple[list[str], torch.Tensor]:
    captions, facts = [], []
    for number in range(count):
        people = tuple(int(p) for p in rng.integers(0, 800_000, size=rng.choice([1, 1, 1, 2, 3])))
        clip = clip_of(people, number % 7)
        captions.append(caption_of(clip))
        facts.append(_facts(clip, captions[-1]))
    return captions, torch.tensor(facts)


def _loss(scene: torch.Tensor, person: torch.Tensor, facts: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy over all facts, and the share of facts that are right."""
    pairs = [(scene[:, : len(PLACES)], facts[:, 0]), (scene[:, len(PLACES) :], facts[:, 1])]
    for slot in range(MAX_PEOPLE):
        for index, part in enumerate(person[:, slot].split(_PER_PERSON, dim=-1)):
            pairs.append((part, facts[:, 2 + 4 * slot + index]))
    loss = torch.stack([nn.functional.cross_entropy(logits, wanted, ignore_index=-1) for logits, wanted in pairs]).sum()
    right = torch.cat([(logits.argmax(-1) == wanted)[wanted >= 0] for logits, wanted in pairs])
    return loss, right.float().mean()


def main() -> None:
    """Run the recipe; see the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder that gets tokenizer/ and text_encoder/")
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--captions", type=int, default=30_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    torch.set_num_threads(1)
    rng = np.random.default_rng(arguments.seed)
    captions, facts = _corpus(arguments.captions, rng)
    tokenizer = make_tokenizer(captions)
    tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt")
    config = UMT5Config(
        vocab_size=len(tokenizer), d_model=WIDTH, d_kv=32, num_heads=4, d_ff=256, num_layers=2, dropout_rate=0.0,
        relative_attention_num_buckets=32, relative_attention_max_distance=64, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    encoder: Any = UMT5EncoderModel(config)
    reader = _Reader()
    model = nn.ModuleList([encoder, reader]).train()
    optimiser = Optimiser(model, rate=4e-3, plain=[encoder.shared.weight])
    held_out = 1000
    started, step = time.time(), 0
    while (progress := (time.time() - started) / (60 * arguments.minutes)) < 1:
        rows = torch.from_numpy(rng.integers(held_out, len(captions), size=64))
        mask = tokens.attention_mask[rows]
        with torch.autocast("cpu", dtype=torch.bfloat16):
            embeds = encoder(tokens.input_ids[rows], mask).last_hidden_state
            scene, person = reader(embeds, mask)
        loss, right = _loss(scene.float(), person.float(), facts[rows])
        loss.backward()
        optimiser.step(progress)
        step += 1
        if step % 100 == 0:
            print(
                json.dumps({"step": step, "loss": round(float(loss), 3), "right": round(float(right), 4)}), flush=True
            )
    model.eval()
    with torch.no_grad():
        mask = tokens.attention_mask[:held_out]
        embeds = encoder(tokens.input_ids[:held_out], mask).last_hidden_state
        scene, person = reader(embeds, mask)
        _, right = _loss(scene, person, facts[:held_out])
    print(
        json.dumps(
            {
                "held-out facts read off the embeddings": round(float(right), 4),
                "deviation": round(float(embeds[mask > 0].std()), 3),
            }
        )
    )
    encoder.to(torch.bfloat16).save_pretrained(arguments.output / "text_encoder")
    tokenizer.save_pretrained(arguments.output / "tokenizer")


if __name__ == "__main__":
    main()
