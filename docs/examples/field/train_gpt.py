"""A script in the style of the field, for docs/outside.md: model, loader, training and evaluation in one file, and no import of Caddie.

python train_gpt.py DIR model.npz       trains on *_train_*.bin and prints bits per byte of *_val_*.bin
"""

import glob
import math
import sys

import numpy as np
import sentencepiece
import torch
import torch.nn.functional as F
from torch import Tensor, nn

WINDOW, STRIDE = 128, 32


class Block(nn.Module):
    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.proj = nn.Linear(dim, dim, bias=False)
        self.fc = nn.Linear(dim, 3 * dim, bias=False)
        self.out = nn.Linear(3 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(F.rms_norm(x, x.shape[-1:])).chunk(3, dim=-1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.proj(y)
        return x + self.out(F.relu(self.fc(F.rms_norm(x, x.shape[-1:]))).square())


class GPT(nn.Module):
    def __init__(self, vocab_size: int, dim: int = 64, layers: int = 2, heads: int = 4):
        super().__init__()
        self.wte = nn.Embedding(vocab_size, dim)
        self.wpe = nn.Embedding(WINDOW, dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(layers))
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.05)

    def hidden(self, ids: Tensor) -> Tensor:
        x = self.wte(ids) + self.wpe.weight[: ids.shape[1]]
        for block in self.blocks:
            x = block(x)
        return F.rms_norm(x, x.shape[-1:])

    def head(self, x: Tensor) -> Tensor:
        return 15 * torch.tanh(F.linear(x, self.wte.weight) / 15)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.hidden(ids))


def load_shards(pattern: str) -> Tensor:
    """The tokens behind each header of 256 int32."""
    paths = sorted(path for path in glob.glob(pattern) if "_bytes_" not in path)
    return torch.from_numpy(np.concatenate([np.fromfile(path, "<u2", offset=1024) for path in paths]).astype(np.int64))


def save_model(model: GPT, path: str) -> None:
    """Eight bits a weight, with a scale for each row."""
    arrays = {}
    for name, weight in model.state_dict().items():
        scale = weight.abs().amax(1, keepdim=True).clamp_min(1e-8) / 127
        arrays[f"{name}.q"], arrays[f"{name}.s"] = (weight / scale).round().to(torch.int8).numpy(), scale.numpy()
    np.savez_compressed(path, **arrays)


def load_model(path: str) -> GPT:
    with np.load(path, allow_pickle=False) as file:
        state = {name[:-2]: torch.from_numpy(file[name] * file[f"{name[:-2]}.s"]) for name in file.files if name.endswith(".q")}
    model = GPT(state["wte.weight"].shape[0])
    model.load_state_dict(state)
    return model.eval()


def byte_luts(sp: sentencepiece.SentencePieceProcessor) -> tuple[Tensor, Tensor, Tensor]:
    """Bytes of each piece without its leading space, whether it has one, and whether it stands for no text."""
    size = sp.vocab_size()
    base, space, boundary = torch.zeros(size, dtype=torch.int64), torch.zeros(size, dtype=torch.bool), torch.ones(size, dtype=torch.bool)
    for i in range(size):
        if sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i):
            continue
        piece, boundary[i] = sp.id_to_piece(i), False
        space[i] = piece.startswith("▁")
        base[i] = 1 if sp.is_byte(i) else len(piece.removeprefix("▁").encode())
    return base, space, boundary


def count_bytes(tokens: Tensor, sp: sentencepiece.SentencePieceProcessor) -> int:
    """Bytes of the text behind all tokens but the first."""
    base, space, boundary = byte_luts(sp)
    previous, target = tokens[:-1], tokens[1:]
    return int(base[target].sum() + (space[target] & ~boundary[previous]).sum())


@torch.no_grad()
def eval_val_sliding(model: GPT, tokens: Tensor) -> float:
    """Nats of all targets. A window moves on by STRIDE and scores what no window before it has scored."""
    nats, scored = 0.0, 0
    while scored < len(tokens) - 1:
        end = min(max(WINDOW, scored + STRIDE), len(tokens) - 1)
        start = max(0, end - WINDOW)
        logits = model(tokens[None, start:end])[0, scored - start :]
        nats += F.cross_entropy(logits.double(), tokens[scored + 1 : end + 1], reduction="sum").item()
        scored = end
    return nats


def main(data: str, out: str, steps: int = 300) -> None:
    torch.manual_seed(0)
    sp = sentencepiece.SentencePieceProcessor(model_file=f"{data}/tokenizer.model")
    train, val = (load_shards(f"{data}/*_{split}_*.bin") for split in ("train", "val"))
    model = GPT(sp.vocab_size())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.95))
    for step in range(steps):
        at = torch.randint(len(train) - WINDOW - 1, (16,))
        rows = torch.stack([train[i : i + WINDOW + 1] for i in at])
        F.cross_entropy(model(rows[:, :-1]).flatten(0, 1), rows[:, 1:].flatten()).backward()
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / steps)
        optimizer.step()
        optimizer.zero_grad()
    save_model(model, out)
    print(f"val_bpb:{eval_val_sliding(load_model(out), val) / math.log(2) / count_bytes(val, sp):.4f}")


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
