"""How long does it take to quantize a network of the field's size, given its statistics? Goal: 36 M weights in 60 s, 5 s on a GPU.

    python benchmarks/quantize_speed.py                         #1493 and #1855 at full size, as published and entropy-constrained
    python benchmarks/quantize_speed.py pr1855 --rounds 1

Normal weights, and Hessians of normal inputs whose eigenvalues fall as 1/i: the work does not depend on them, but for the passes of the
entropy-constrained method, which looks for its constant. Counted is all that the stage `quantize` computes, its table of errors included,
not reading and writing. On the CPU 2 threads unless told otherwise; on a GPU the device is waited for.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # instead of this folder, whose modules could hide others

import argparse
import os
import platform
import statistics
import time

import torch

ENTROPY = {f"quantize.groups.{name}.method": "entropy" for name in ("embedding", "attention", "mlp")}


def hessian(width: int, generator: torch.Generator) -> torch.Tensor:
    """(K, K): Q diag(1/i) Q' with Q from the QR factorisation of a normal matrix."""
    basis, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
    return (basis / torch.arange(1, width + 1)) @ basis.T


def problem(tree: dict) -> tuple[dict, dict, dict, dict]:
    """Weights and groups by parameter, Hessians and row statistics by module, of the network that `tree` describes."""
    from stages.lib.quant import groups
    from stages.recipes import describe

    generator = torch.Generator().manual_seed(0)
    net = describe.network(tree)
    state = {name: 0.02 * torch.randn(weight.shape, generator=generator) for name, weight in net.named_parameters()}
    of_width, hessians, rows = {}, {}, {}
    for name, module in net.named_modules():
        if isinstance(module, (torch.nn.Linear, torch.nn.Embedding)):
            count, width = module.weight.shape
            if width not in of_width:
                of_width[width] = hessian(width, generator)
            hessians[name], rows[name] = of_width[width], torch.rand(count, generator=generator) + 0.1
    return state, groups.by_parameter(net), hessians, rows


def seconds(tree: dict, device: torch.device, rounds: int) -> tuple[list[float], float]:
    """Of each round; and the coded bits per weight, estimated."""
    from stages.lib.node import params
    from stages.lib.quant import entropy_model
    from stages.lib.quant.network import quantize
    from stages.lib.quant.settings import QuantizeSettings
    from stages.quantize import reporting as table

    state, group_of, hessians, rows = problem(tree)
    settings, found = params.section(tree, QuantizeSettings), []
    for _ in range(rounds):
        started = time.perf_counter()
        result = quantize(state, group_of, hessians, settings, rows=rows, multipliers={}, device=device)
        table.rows(result, state, hessians)
        found.append(time.perf_counter() - started)
    return found, entropy_model.estimated(result.matrices).bits_per_weight


def main() -> None:
    from stages.lib.node import params
    from stages.recipes import catalog

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["pr1493", "pr1855"], help="recipes (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--threads", type=int, default=2, help="CPU threads (default: %(default)s)")
    parser.add_argument("--width", type=int, help="of the network, for a quick look; full size without it")
    parser.add_argument("--device", choices=("cpu", "cuda"), help="(default: a GPU if there is one)")
    arguments = parser.parse_args()
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    torch.set_num_threads(arguments.threads)
    base = params.read(ROOT / "params.yaml")
    print("| network | method | weights | s, median | s, range | bits per weight |\n|---|---|---:|---:|---:|---:|")
    for name in arguments.names:
        for method, more in (("as published", {}), ("entropy-constrained", ENTROPY)):
            tree = catalog.applied(catalog.values(name, base) | more, base)
            if arguments.width:
                tree["model"] |= {"width": arguments.width, "mlp_width": 4 * arguments.width}
            weights = sum(weight.numel() for weight in problem(tree)[0].values())
            found, bits = seconds(tree, device, arguments.rounds)
            spread = f"{min(found):.1f} to {max(found):.1f}"
            print(f"| {name} | {method} | {weights:,} | {statistics.median(found):.1f} | {spread} | {bits:.2f} |", flush=True)
    hardware = torch.cuda.get_device_name() if device.type == "cuda" else f"{arguments.threads} of {os.cpu_count()} cores"
    print(f"\n{hardware}, {platform.machine()}, {platform.system()}, torch {torch.__version__}, n = {arguments.rounds}")


if __name__ == "__main__":
    from stages.lib.node.command import sentences

    with sentences("benchmarks/quantize_speed.py"):
        main()
