"""The state dict of a published script, made from our own parameters by hand: the inverse of what stages/train/published.py reads."""

import torch
from torch import Tensor

from stages.runtime.network.gpt import GPT

BANKED = ("pr549", "pr1019", "pr1150", "pr1172", "pr1306", "pr1855", "pr1945", "pr1953", "pr1958", "pr2014", "pr2135")


def published(net: GPT, *, banked: bool) -> dict[str, Tensor]:
    """Tensors by their published names, with the shapes of the published model classes."""
    ours = {name: weight.detach() for name, weight in net.named_parameters()}
    out, layers = {"tok_emb.weight": ours["embedding.weight"]}, range(net.config.num_layers)
    if not net.config.tied_head:
        out["lm_head.weight"] = ours["unembedding.weight"]
    for i in layers:
        block = f"blocks.{i}."
        out[f"{block}attn_scale"], out[f"{block}mlp_scale"] = ours[f"{block}attention_scale"], ours[f"{block}mlp_scale"]
        out[f"{block}resid_mix"] = ours["residual_mix.weight"][i]
        out[f"{block}attn.q_gain"] = ours[f"{block}attention.query_gain"]
        if "sparse_gate" in net.features:
            out[f"{block}attn.attn_gate_w"] = ours["sparse_gate.weight"][i]

    def all_of(name: str) -> list[Tensor]:
        return [ours[f"blocks.{i}.{name}.weight"] for i in layers]

    if banked:
        out["qo_bank"] = torch.stack(all_of("attention.query") + all_of("attention.output"))
        out["kv_bank"] = torch.stack(all_of("attention.key") + all_of("attention.value"))
        out["mlp_up_bank"], out["mlp_down_bank"] = torch.stack(all_of("mlp.up")), torch.stack(all_of("mlp.down"))
    else:
        for theirs, name in (("attn.c_q", "attention.query"), ("attn.c_k", "attention.key"), ("attn.c_v", "attention.value")):
            out |= {f"blocks.{i}.{theirs}.weight": weight for i, weight in enumerate(all_of(name))}
        for theirs, name in (("attn.proj", "attention.output"), ("mlp.fc", "mlp.up"), ("mlp.proj", "mlp.down")):
            out |= {f"blocks.{i}.{theirs}.weight": weight for i, weight in enumerate(all_of(name))}
    out["skip_weights"] = ours["unet_skips.weight"]
    if "unet_skips.gate" in ours:
        out["skip_gates"] = ours["unet_skips.gate"]
    if "bigram_hash" in net.features:
        out["bigram.embed.weight"], out["bigram.proj.weight"] = ours["bigram_hash.table.weight"], ours["bigram_hash.projection.weight"]
        out["bigram.scale"] = ours["bigram_hash.scale"].reshape(())
    if "value_embedding" in net.features:
        out["ve_shared.embed.weight"] = ours["value_embedding.table.weight"]
        out["ve_shared.proj.weight"] = ours["value_embedding.projection.weight"]
        out["ve_shared.scale"] = ours["value_embedding.scale"].reshape(())
        out |= {f"ve_layer_scales.{k}": scale.reshape(1) for k, scale in enumerate(ours["value_embedding.layer_scale"])}
    if "smear_gate.gate" in ours:
        out["smear.gate"] = ours["smear_gate.gate"]
    if "smear_gate.weight" in ours:
        out["smear_gate.weight"], out["smear_lambda"] = ours["smear_gate.weight"].reshape(1, -1), ours["smear_gate.strength"]
    if "two_lane" in net.features:
        out["parallel_resid_lambdas"] = ours["two_lane.stay"]
        out["parallel_post_lambdas"] = torch.stack((ours["two_lane.attention"], ours["two_lane.mlp"]), dim=1)
    if "asymmetric_cap" in net.features:
        out["softcap_pos"], out["softcap_neg"] = (ours[f"asymmetric_cap.{name}"].reshape(()) for name in ("positive", "negative"))
    return {name: tensor.clone() for name, tensor in out.items()}
