"""ONNX exports → parameters under the names of the PyTorch model's `state_dict()`.

A model may be one file or several with a role each; optimum roots the encoder's file at the encoder, so its names are
completed from its role. See `onnx_names` for how a name is found, `docs/decisions` for why the files are read without
the onnx package.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastattn.errors import LoadError
from fastattn.loaders.onnx_format import read_onnx
from fastattn.loaders.onnx_graph import NamedTensors, read_parameters
from fastattn.loaders.tensors import TensorMap, Weight, same_values

# role -> file names before their variant and ".onnx", best first: the merged decoder and the first-step decoder hold every
# weight of the decoder, the decoder with past lacks the cross-attention's keys and values
ROLE_FILES: dict[str, tuple[str, ...]] = {
    "encoder": ("encoder_model", "encoder"),
    "decoder": ("decoder_model_merged", "decoder_model", "decoder", "decoder_with_past_model"),
    "model": ("model",),
}
VARIANTS = ("", "_fp16", "_optimized")  # ends of the names of files whose weights are floats, best first
# parameters that belong to the whole model even where the decoder is exported alone
TOP_LEVEL = ("lm_head", "final_logits_bias", "shared", "proj_out", "generator")


@dataclass
class OnnxTensors:
    """What `load_onnx` returns; see `fastattn.loaders.Checkpoint` for the meaning of the fields."""

    tensors: TensorMap
    origin: dict[str, str]
    aliases: dict[str, str] = field(default_factory=dict)
    constants: frozenset[str] = frozenset()
    call_paths: dict[str, str] = field(default_factory=dict)
    hint: str = ""


def find_onnx(folder: Path) -> dict[str, Path]:
    """The files to load from a folder, by role; {} when it holds no ONNX model, an error when the choice is unclear."""
    if whole := _whole(folder):
        return whole
    nested = folder / "onnx"  # the layout of repositories that hold several formats
    if folder.name != "onnx" and nested.is_dir() and (found := find_onnx(nested)):
        return found
    names = sorted(p.name for p in folder.glob("*.onnx"))
    if len(names) == 1 and role_of(folder / names[0]) != "encoder":
        return {role_of(folder / names[0]): folder / names[0]}
    if not names:
        return {}
    wanted = "expected encoder_model.onnx and decoder_model.onnx, or model.onnx; variants have one name"
    raise LoadError(
        f"{folder}: which of {', '.join(names)} is the model? {wanted}: {', '.join(VARIANTS[1:])} at the end"
    )


def _whole(folder: Path) -> dict[str, Path]:
    """The files of the best variant of which all parts are there."""
    alone = not any(folder.glob("encoder*.onnx"))  # then a decoder is a model
    for variant in VARIANTS:
        found = {}
        for role, stems in ROLE_FILES.items():
            paths = [path for stem in stems if (path := folder / f"{stem}{variant}.onnx").is_file()]
            found.update({role: paths[0]} if paths else {})
        if "decoder" in found and ("encoder" in found or ("model" not in found and alone)):
            return {role: path for role, path in found.items() if role != "model"}
        if "model" in found:
            return {"model": found["model"]}
    return {}


def role_of(path: Path) -> str:
    """The role of a single file, from its name."""
    names = {f"{stem}{variant}": role for role, stems in ROLE_FILES.items() for stem in stems for variant in VARIANTS}
    return names.get(path.stem, "model")


def load_onnx(files: Mapping[str, Path]) -> OnnxTensors:
    """Read the parameters of an exported model.

    Args:
        files: role ("encoder", "decoder" or "model") -> file, as `find_onnx` gives it.

    Returns:
        Tensors under their PyTorch names, viewed in the mapped files; nothing is copied until one is used.

    Raises:
        LoadError: a file is missing, truncated or not ONNX, its weights are quantised, a tensor's data is not what its
            shape says, external data lies outside the model's folder, or two files disagree on a tensor.
    """
    parts = {role: read_parameters(read_onnx(path)) for role, path in files.items()}
    if "encoder" in parts and "decoder" in parts:
        parts = dict(zip(parts, _one_namespace(parts), strict=True))
    _separate(parts)
    return _merge(files, parts)


def _one_namespace(parts: Mapping[str, NamedTensors]) -> list[NamedTensors]:
    """Complete the names of a file that was exported from the bare encoder or decoder."""
    known = {role: set(part.weights) - part.constants - part.call_paths for role, part in parts.items()}
    rooted = {  # what stands before "encoder." or "decoder."; None: exported from that module itself
        role: next((r for names in (known[role], part.call_paths) if (r := _root(names, role)) is not None), None)
        for role, part in parts.items()
    }
    root = next((r for r in (rooted["decoder"], rooted["encoder"]) if r is not None), "")
    return [
        part if rooted[role] is not None else _prefixed(part, f"{root}{role}.", root) for role, part in parts.items()
    ]


def _root(names: Iterable[str], role: str) -> str | None:
    """What stands before `encoder.` or `decoder.` in the names ('' or 'model.'), None when that component is absent."""
    for name in names:
        components = name.split(".")
        if role in components[:-1]:
            return "".join(f"{c}." for c in components[: components.index(role)])
    return None


def _prefixed(part: NamedTensors, prefix: str, root: str) -> NamedTensors:
    def full(name: str) -> str:
        if name in part.constants or not name.isascii() or ":" in name or name.startswith("/"):
            return name
        head = name.split(".")[0]
        return name if root and name.startswith(root) else (root if head in TOP_LEVEL else prefix) + name

    return NamedTensors(
        {full(name): weight for name, weight in part.weights.items()},
        {full(alias): full(name) for alias, name in part.aliases.items()},
        set(part.constants),
        {full(name) for name in part.call_paths},
    )


def _separate(parts: Mapping[str, NamedTensors]) -> None:
    """Where several files have tensors under one call path, those are of different modules unless all are equal: the
    names get their role in front, "role:path"."""
    seen: dict[str, list[str]] = {}
    for role, part in parts.items():
        for path in {name.rpartition(".")[0] for name in part.call_paths}:
            seen.setdefault(path, []).append(role)
    for path, roles in seen.items():
        held = [{n: parts[r].weights[n] for n in parts[r].call_paths if n.rpartition(".")[0] == path} for r in roles]
        if all(h.keys() == held[0].keys() and all(same_values(w, held[0][n]) for n, w in h.items()) for h in held[1:]):
            continue
        for role, weights in zip(roles, held, strict=True):
            for name in weights:
                parts[role].call_paths.remove(name)
                parts[role].call_paths.add(f"{role}:{name}")
                parts[role].weights[f"{role}:{name}"] = parts[role].weights.pop(name)


def _merge(files: Mapping[str, Path], parts: Mapping[str, NamedTensors]) -> OnnxTensors:
    """Join the files: a parameter in several of them must be the same in all. Names that are not the parameter's own,
    only ONNX's, are told apart by the role."""
    weights: dict[str, Weight] = {}
    owners: dict[str, str] = {}
    merged = OnnxTensors(TensorMap({}), {})
    constants: set[str] = set()
    for role, part in parts.items():
        for name, weight in part.weights.items():
            full = name
            if name in weights and not same_values(weights[name], weight):
                if name not in part.constants and "::" not in name:
                    why = f"differs from {owners[name]}: the files are not of one model"
                    raise LoadError(f"{files[role]}: tensor {name!r} {why}")
                full = f"{role}:{name}"
            if name in part.constants:
                constants.add(full)
            weights.setdefault(full, weight)
            owners.setdefault(full, files[role].name)
        merged.call_paths.update(dict.fromkeys(part.call_paths, role))
        merged.aliases.update(part.aliases)
    merged.aliases = {a: name for a, name in merged.aliases.items() if a not in weights and name in weights}
    merged.tensors, merged.constants = TensorMap(weights), frozenset(constants)
    merged.origin = {name: weight.origin for name, weight in weights.items()}
    merged.hint = "; ".join(filter(None, [_part_missing(files), *(part.hint for part in parts.values())]))
    return merged


def _part_missing(files: Mapping[str, Path]) -> str:
    """Why tensors may be missing, from the files that were read."""
    if "decoder" in files and files["decoder"].name.startswith("decoder_with_past"):
        lacks = "lacks the cross-attention's keys and values, as they come from its inputs"
        return f"{files['decoder'].name} {lacks}: expected decoder_model.onnx or decoder_model_merged.onnx"
    if len(files) == 1 and "model" not in files:
        role, path = next(iter(files.items()))
        return f"{path.name} is a model's {role} alone: where there are more parts, open the folder that holds them all"
    return ""
