"""list the models that come with the package"""

from __future__ import annotations

import argparse

from fastattn.cli.console import columns


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None are needed."""


def run(arguments: argparse.Namespace) -> None:
    """A line per model: name, family, parameters."""
    import fastattn

    rows = []
    for name in fastattn.bundled_models():
        model = fastattn.load(name)
        rows.append([name, model.family, f"{model.num_parameters:,} parameters"])
    print(columns(rows, right=[2]))
