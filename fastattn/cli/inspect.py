"""show a model's architecture, parameters and tensors, and how they were found"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from fastattn.cli.console import columns, print_json
from fastattn.cli.loading import bar
from fastattn.packing import COMPUTE_TYPES

if TYPE_CHECKING:
    from fastattn.api import Model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's options."""
    parser.add_argument("model", metavar="MODEL", help="a folder, a file, or the name of a bundled model")
    parser.add_argument("--compute-type", choices=COMPUTE_TYPES, help="load it so (default: float32)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="the same as one JSON object")
    shown.add_argument(
        "--graph", action="store_true", help="instead: the ops that a step runs, after the fusion passes"
    )


def run(arguments: argparse.Namespace) -> None:
    """Loads the model, so that what is shown is what runs."""
    import fastattn

    with bar(f"loading {arguments.model}") as progress:
        model = fastattn.load(arguments.model, compute_type=arguments.compute_type, progress=progress)
    if arguments.graph:
        print("\n\n".join(str(graph) for graph in model.graphs().values()))
        return
    description = describe(model)
    if arguments.json:
        print_json(description)
    else:
        print(as_text(description))


def describe(model: Model) -> dict[str, Any]:
    """Architecture and tensors as plain values."""
    from fastattn.loaders import describe as describe_tensors

    checkpoint = model.checkpoint
    tensors = [
        {"name": name, "shape": list(shape), "dtype": dtype, "origin": origin}
        for name, shape, dtype, origin in describe_tensors(checkpoint)
    ]
    return {
        "model": model.name,
        "path": str(checkpoint.path),
        "format": checkpoint.format,
        "family": model.family,
        "parameters": model.num_parameters,
        "compute_type": model.compute_type,
        "weight_bytes": model.weight_sizes(),
        "config": dict(model.config),
        "generation_config": dict(checkpoint.generation_config),
        "tensors": tensors,
        "aliases": dict(checkpoint.aliases),
        "constants": sorted(checkpoint.constants),
    }


def as_text(description: dict[str, Any]) -> str:
    """What a person reads: facts, configuration, then a line per tensor with where it was found."""
    facts = [[key, str(description[key])] for key in ("model", "path", "format", "family")]
    facts.append(["parameters", f"{description['parameters']:,}"])
    facts.append(["compute type", description["compute_type"]])
    held = [f"{kind} {size / 1e6:,.1f} MB" for kind, size in description["weight_bytes"].items()]
    facts.append(["weights in memory", ", ".join(held)])
    blocks = [columns(facts)]
    for title in ("config", "generation_config"):
        if description[title]:
            rows = [[f"  {key}", json.dumps(value, ensure_ascii=False)] for key, value in description[title].items()]
            blocks.append(f"{title}\n{columns(rows)}")
    rows = [
        [f"  {t['name']}", " × ".join(map(str, t["shape"])) or "scalar", t["dtype"], t["origin"]]
        for t in description["tensors"]
    ]
    blocks.append(f"tensors ({len(rows)})\n{columns(rows)}")
    if description["aliases"]:
        rows = [[f"  {name}", f"is {target}"] for name, target in sorted(description["aliases"].items())]
        blocks.append(f"further names\n{columns(rows)}")
    if description["constants"]:
        blocks.append("not parameters\n" + "\n".join(f"  {name}" for name in description["constants"]))
    return "\n\n".join(blocks)
