"""The evaluation of train_gpt.py with a known mistake (#1698): a leading space is in the table of bytes already, and is added again."""

import sys

import train_gpt


def byte_luts(sp):
    base, space, boundary = right(sp)
    return base + space, space, boundary


right, train_gpt.byte_luts = train_gpt.byte_luts, byte_luts
data, model = sys.argv[1:]
sp = train_gpt.sentencepiece.SentencePieceProcessor(model_file=f"{data}/tokenizer.model")
val = train_gpt.load_shards(f"{data}/*_val_*.bin")
nats = train_gpt.eval_val_sliding(train_gpt.load_model(model), val)
print(f"val_bpb:{nats / train_gpt.math.log(2) / train_gpt.count_bytes(val, sp):.4f}")
