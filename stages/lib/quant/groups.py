"""Which parameters of a network are quantized together: groups that share a method, bits and clip.

| group      | parameters                                                                                                  |
|------------|-------------------------------------------------------------------------------------------------------------|
| embedding  | the table of the head, tied or its own, and the table of the tokens where that is another                   |
| attention  | query, key, value and output of every layer                                                                 |
| mlp        | up and down of every layer, and the copies of untied_mlp                                                    |
| projection | linear layers of features, and the gates of heads, whose layers are stacked to one matrix of L H rows       |
| table      | tables of features: bigram_hash.table, value_embedding.table                                                |

Everything else (gains, scales and vectors) is in no group and is stored as float16.
"""

from torch import nn

from stages.runtime.network import gpt

GROUPS = ("embedding", "attention", "mlp", "projection", "table")
HEAD_TABLES = ("embedding", "unembedding")


def by_parameter(net: gpt.GPT) -> dict[str, str]:
    """The group of every parameter that is in one, in the order of the network's parameters."""
    found = {}
    for name, module in net.named_modules():
        if isinstance(module, nn.Embedding):
            found[f"{name}.weight"] = "embedding" if name in HEAD_TABLES else "table"
        elif isinstance(module, nn.Linear):
            found[f"{name}.weight"] = _group_of_layer(name)
    gates = {name for name, feature in net.features.items() if feature in net.hooks.having["gate"]}
    return {
        name: group
        for name, weight in net.named_parameters()
        if (group := found.get(name, "projection" if name.split(".")[0] in gates and weight.ndim == 3 else None))
    }


def _group_of_layer(name: str) -> str:
    top, *rest = name.split(".")
    if top == "blocks":
        return rest[1]
    return "mlp" if top == "untied_mlp" else "projection"
