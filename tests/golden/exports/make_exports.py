"""Makes the exports in this folder: tiny models, one per shape an ONNX export comes in.

    python tests/golden/exports/make_exports.py [NAME …]

needs torch, transformers 4.57, optimum-onnx, onnx and onnxscript. `states/*.npz` hold the `state_dict()` each export
was made from; `manifest.json` says which belongs to which. tests/test_loaders_onnx.py compares every tensor with them.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from transformers import MarianConfig, MarianMTModel

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[2] / "examples"))
from train.rnn import RnnAttention, RnnConfig  # noqa: E402

DYNAMIC = torch.export.Dim.DYNAMIC


# -- models -----------------------------------------------------------------------------------------------------------


def marian(default_init: bool) -> MarianMTModel:
    """MarianMTModel; with its default initialisation many tensors are equal, which exporters exploit."""
    torch.manual_seed(0)
    config = MarianConfig(
        vocab_size=60, d_model=16, encoder_layers=2, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=32, pad_token_id=59,
        eos_token_id=0, bos_token_id=None, decoder_start_token_id=59, forced_eos_token_id=0, scale_embedding=True,
        activation_function="swish")  # fmt: skip
    model = MarianMTModel(config).eval()
    if not default_init:
        randomise(model)
    return model


class WholeMarian(nn.Module):
    """Ids to logits, with the parameter names of MarianMTModel."""

    def __init__(self, model: MarianMTModel) -> None:
        super().__init__()
        self.model, self.lm_head = model.model, model.lm_head
        self.register_buffer("final_logits_bias", model.final_logits_bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        out = self.model(input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids,
                         use_cache=False, return_dict=True)  # fmt: skip
        return self.lm_head(out.last_hidden_state) + self.final_logits_bias


RNNS: dict[str, dict[str, Any]] = {
    "gru-additive-1": {"cell": "gru", "attention": "bahdanau", "score": "additive", "num_layers": 1},
    "lstm-general-2": {
        "cell": "lstm",
        "attention": "luong",
        "score": "general",
        "num_layers": 2,
        "input_feeding": True,
    },
    "gru-dot-3": {"cell": "gru", "attention": "luong", "score": "dot", "num_layers": 3},
    "lstm-concat-1": {"cell": "lstm", "attention": "luong", "score": "concat", "num_layers": 1},
}


def rnn(name: str) -> RnnAttention:
    torch.manual_seed(1)
    sizes = {"embedding_size": 5, "encoder_hidden_size": 3, "decoder_hidden_size": 6, "attention_size": 4}
    model = RnnAttention(RnnConfig(12, 13, **sizes, attention_output_size=7, **RNNS[name])).eval()
    randomise(model)
    return model


class RnnEncoder(nn.Module):
    """Ids to memory and initial states. Dynamo cannot trace packed sequences; without them all have the full length."""

    def __init__(self, model: RnnAttention, packed: bool) -> None:
        super().__init__()
        self.config, self.encoder, self.bridge, self.packed = model.config, model.encoder, model.bridge, packed
        if model.config.cell == "lstm":
            self.bridge_cell = model.bridge_cell

    def forward(self, input_ids: Tensor, mask: Tensor) -> tuple[Tensor, ...]:
        if self.packed:
            memory, last = self.encoder(input_ids, mask)
        else:
            memory, last = self.encoder.rnn(self.encoder.embed_tokens(input_ids))
        pairs = (
            zip((self.bridge, self.bridge_cell), last, strict=True)
            if self.config.cell == "lstm"
            else [(self.bridge, last)]
        )
        return memory, *(RnnAttention.bridged(self, bridge, state) for bridge, state in pairs)


class RnnStep(nn.Module):
    """One token to logits and the next state."""

    def __init__(self, model: RnnAttention) -> None:
        super().__init__()
        self.config, self.decoder, self.lm_head = model.config, model.decoder, model.lm_head

    def forward(self, token: Tensor, memory: Tensor, mask: Tensor, attentional: Tensor, hidden: Tensor,
                cell: Tensor | None = None) -> tuple[Tensor, ...]:  # fmt: skip
        state = self.decoder(token, hidden, cell, attentional, None, memory, mask)
        return self.lm_head(state[0]), *(s for s in state if s is not None)


class ReachingStep(RnnStep):
    """The same for `gru-additive-1`, calling the decoder's parts from outside: their paths lack `decoder`."""

    def forward(self, token: Tensor, memory: Tensor, mask: Tensor, attentional: Tensor, hidden: Tensor,
                cell: Tensor | None = None) -> tuple[Tensor, ...]:  # fmt: skip
        d = self.decoder
        keys = d.attention.W_k(memory) + d.attention.bias
        scores = d.attention.v(torch.tanh(d.attention.W_q(hidden[-1]).unsqueeze(1) + keys)).squeeze(2)
        weights = torch.softmax(scores.masked_fill(mask == 0, -1e9), dim=1).unsqueeze(1)
        context = weights @ memory
        top, hidden = d.rnn(torch.cat((d.embed_tokens(token), context), dim=2), hidden)
        attentional = torch.tanh(d.W_c(torch.cat((context, top), dim=2))).squeeze(1)
        return self.lm_head(attentional), attentional, hidden


class WholeRnn(nn.Module):
    """Two teacher-forced steps in one file: the decoder's modules are called twice."""

    def __init__(self, model: RnnAttention) -> None:
        super().__init__()
        self.encoder, self.decoder, self.lm_head, self.bridge = (
            model.encoder,
            model.decoder,
            model.lm_head,
            model.bridge,
        )
        self.config, self.packed = model.config, False

    def forward(self, input_ids: Tensor, mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        memory, hidden = RnnEncoder.forward(self, input_ids, mask)
        attentional = torch.zeros(2, self.config.attention_output_size)
        rows = []
        for t in range(2):
            token = decoder_input_ids[:, t : t + 1]
            logits, attentional, hidden = ReachingStep.forward(self, token, memory, mask, attentional, hidden)
            rows.append(logits)
        return torch.stack(rows, dim=1)


class Attended(nn.Module):
    """User code that multiplies by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(8, 8))
        self.v = nn.Parameter(torch.empty(8))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.v


class Assorted(nn.Module):
    """One of each: the places a parameter can stand in."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        self.plain = nn.Linear(8, 8, bias=False)  # MatMul without Add
        self.biased = nn.Linear(8, 8)  # MatMul and Add
        self.norm = nn.LayerNorm(8)  # one operator or several, by opset
        self.mha = nn.MultiheadAttention(8, 2, batch_first=True)  # packed q, k, v
        self.attended = Attended()
        self.stack = nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 8))
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.batch_norm = nn.BatchNorm1d(8)
        self.gru_cell = nn.GRUCell(8, 8)
        self.one_way = nn.LSTM(8, 4, bias=False)
        self.head = nn.Linear(4, 3)  # on two dimensions: Gemm

    def forward(self, ids: Tensor) -> Tensor:
        x = self.norm(self.biased(self.plain(self.embed(ids))))
        x = self.stack(self.attended(x + self.mha(x, x, x, need_weights=False)[0]))
        x = self.conv(self.batch_norm(x.transpose(1, 2))).transpose(1, 2)  # the other way round they would be fused
        h = self.gru_cell(x[:, 0], x[:, 1])
        return self.head(self.one_way(h.unsqueeze(0))[0][0])


def assorted() -> Assorted:
    torch.manual_seed(2)
    model = Assorted().eval()
    randomise(model)
    return model


def randomise(model: nn.Module) -> None:
    """Every parameter and buffer its own values; the sinusoids stay."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if "embed_positions" not in name and tensor.is_floating_point():
                tensor.copy_(torch.rand_like(tensor) * 0.6 + (0.7 if "norm" in name else -0.3))


# -- exporters --------------------------------------------------------------------------------------------------------


def export(module: nn.Module, inputs: tuple[Any, ...], path: Path, *, dynamo: bool, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if dynamo:
        options.setdefault("external_data", False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module.eval(), inputs, str(path), dynamo=dynamo, verbose=False, **options)
    strip(path, () if options.get("optimize", True) else ("class_hierarchy",))


def strip(path: Path, more: Sequence[str] = ()) -> None:
    """Drop the exporter's source-code traces: they are large and tell about the machine."""
    model = onnx.load(path, load_external_data=False)
    keep = tuple({"name_scopes", "class_hierarchy", "InputSpec.kind", "folded_from"} - set(more))

    def clean(graph: onnx.GraphProto) -> None:
        for item in [graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer]:
            item.doc_string = ""
            kept = [p for p in item.metadata_props if p.key.endswith(keep)]
            del item.metadata_props[:]
            item.metadata_props.extend(kept)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("g"):
                    clean(attribute.g)

    clean(model.graph)
    del model.metadata_props[:]
    onnx.save(model, path)


def optimum(model: MarianMTModel, out: Path, task: str, *, keep: Sequence[str], **options: Any) -> None:
    from optimum.exporters.onnx import main_export

    with tempfile.TemporaryDirectory() as work:
        model.save_pretrained(f"{work}/model")
        main_export(f"{work}/model", f"{work}/onnx", task=task, do_validation=False, **options)
        out.mkdir(parents=True, exist_ok=True)
        for name in [*keep, "config.json", "generation_config.json"]:
            shutil.copy(Path(work, "onnx", name), out / name)
            if name.endswith(".onnx"):
                strip(out / name)


def export_marian(default_init: bool, out: Path, **options: Any) -> nn.Module:
    model = marian(default_init)
    model.set_attn_implementation("sdpa")
    ids, target = torch.randint(0, 50, (2, 7)), torch.randint(0, 50, (2, 5))
    export(WholeMarian(model), (ids, torch.ones_like(ids), target), out / "model.onnx", **options)
    model.config.save_pretrained(out)
    return model


def export_rnn(name: str, out: Path, dynamo: bool, step: type[RnnStep] = RnnStep, **options: Any) -> nn.Module:
    model = rnn(name)
    config, batch, source = model.config, 2, 4
    ids, mask = torch.ones(batch, source, dtype=torch.long), torch.ones(batch, source, dtype=torch.long)
    options["dynamo"] = dynamo
    packed = not dynamo and step is RnnStep
    export(RnnEncoder(model, packed), (ids, mask), out / "encoder_model.onnx", **options)
    state = torch.zeros(config.num_layers, batch, config.decoder_hidden_size)
    inputs = [ids[:, :1], torch.zeros(batch, source, 6), mask, torch.zeros(batch, config.attention_output_size)]
    inputs += [state, state] if config.cell == "lstm" else [state]
    export(step(model), tuple(inputs), out / "decoder_model.onnx", **options)
    config.save(out)
    return model


def export_whole_rnn(out: Path, dynamo: bool) -> nn.Module:
    model = rnn("gru-additive-1")
    ids = torch.ones(2, 4, dtype=torch.long)
    export(WholeRnn(model), (ids, ids, ids), out / "model.onnx", dynamo=dynamo)
    model.config.save(out)
    return model


def export_assorted(out: Path, dynamo: bool, **options: Any) -> nn.Module:
    model = assorted()
    export(model, (torch.ones(2, 5, dtype=torch.long),), out / "model.onnx", dynamo=dynamo, **options)
    return model


def export_optimum(default_init: bool, out: Path, task: str, keep: Sequence[str], **options: Any) -> nn.Module:
    model = marian(default_init)
    optimum(model, out, task, keep=keep, **options)
    return model


PAST, MERGED = "text2text-generation-with-past", "decoder_model_merged.onnx"
SEPARATE = ("encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx")
Maker = Callable[[Path], nn.Module]
# export -> (name of its state_dict, how it is made)
EXPORTS: dict[str, tuple[str, Maker]] = {
    "marian-optimum": ("marian", lambda out: export_optimum(False, out, PAST, SEPARATE, no_post_process=True)),
    "marian-optimum-merged": ("marian", lambda out: export_optimum(False, out, PAST, ("encoder_model.onnx", MERGED))),
    "marian-equal-merged": (
        "marian-equal",
        lambda out: export_optimum(True, out, PAST, ("encoder_model.onnx", MERGED)),
    ),
    "marian-optimum-one": (
        "marian",
        lambda out: export_optimum(False, out, "text2text-generation", ("model.onnx",), monolith=True),
    ),
    "marian-torchscript": ("marian", lambda out: export_marian(False, out, dynamo=False)),
    "marian-equal-torchscript": ("marian-equal", lambda out: export_marian(True, out, dynamo=False)),
    "marian-unfolded": ("marian", lambda out: export_marian(False, out, dynamo=False, do_constant_folding=False)),
    "marian-dynamo": ("marian", lambda out: export_marian(False, out, dynamo=True, external_data=True)),
    "marian-equal-dynamo": ("marian-equal", lambda out: export_marian(True, out, dynamo=True)),
    "marian-dynamo-unoptimised": ("marian", lambda out: export_marian(False, out, dynamo=True, optimize=False)),
    "rnn-whole-torchscript": ("gru-additive-1", lambda out: export_whole_rnn(out, False)),
    "rnn-whole-dynamo": ("gru-additive-1", lambda out: export_whole_rnn(out, True)),
    "rnn-reaching": ("gru-additive-1", lambda out: export_rnn("gru-additive-1", out, False, ReachingStep)),
    "rnn-reaching-unfolded": (
        "gru-additive-1",
        lambda out: export_rnn("gru-additive-1", out, False, ReachingStep, do_constant_folding=False),
    ),
    "rnn-unfolded": (
        "lstm-general-2",
        lambda out: export_rnn("lstm-general-2", out, False, do_constant_folding=False),
    ),
    "rnn-dynamo-unoptimised": ("lstm-general-2", lambda out: export_rnn("lstm-general-2", out, True, optimize=False)),
    "assorted-torchscript": ("assorted", lambda out: export_assorted(out, False)),
    "assorted-opset14": ("assorted", lambda out: export_assorted(out, False, opset_version=14)),
    "assorted-dynamo": ("assorted", lambda out: export_assorted(out, True)),
}
for _name in RNNS:
    EXPORTS[f"rnn-{_name}-torchscript"] = (_name, lambda out, name=_name: export_rnn(name, out, False))
    EXPORTS[f"rnn-{_name}-dynamo"] = (_name, lambda out, name=_name: export_rnn(name, out, True))


def main(names: Sequence[str]) -> None:
    for name in names or EXPORTS:
        state, make = EXPORTS[name]
        print(name, flush=True)
        shutil.rmtree(HERE / name, ignore_errors=True)
        warnings.simplefilter("ignore")
        model = make(HERE / name)
        arrays = {key: tensor.detach().numpy() for key, tensor in model.state_dict().items()}
        (HERE / "states").mkdir(exist_ok=True)
        np.savez_compressed(HERE / "states" / f"{state}.npz", **arrays)
    (HERE / "manifest.json").write_text(json.dumps({name: row[0] for name, row in EXPORTS.items()}, indent=2) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
