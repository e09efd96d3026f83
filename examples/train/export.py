"""ONNX files of a trained translator, by either of PyTorch's exporters, and the other files of its folder.

A recurrent model becomes two files: `encoder_model.onnx` (the source once) and `decoder_model.onnx` (ONE step). Each weight is
stored in one of them only. (The dynamo exporter unrolls an RNN: its encoder file is fixed at SOURCE_LENGTH words, without
padding.) The Transformer becomes one `model.onnx`, the teacher-forced forward pass, with its embedding
stored once. Both are checked: onnxruntime has to find the ids that PyTorch finds.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from .data import pad
from .marian import Marian
from .rnn import RnnAttention
from .tokenizer import EOS, PAD

MAX_NEW_TOKENS = 64
SOURCE_LENGTH = 7  # of the encoder file the dynamo exporter writes for a recurrent model


class EncoderStep(nn.Module):
    """input_ids (, attention_mask) -> last_hidden_state, hidden (, cell)"""

    def __init__(self, model: RnnAttention) -> None:
        super().__init__()
        self.config, self.encoder, self.bridge = model.config, model.encoder, model.bridge
        if model.config.cell == "lstm":
            self.bridge_cell = model.bridge_cell

    encode, bridged = RnnAttention.encode, RnnAttention.bridged

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> tuple[Tensor, ...]:
        memory, hidden, cell = self.encode(input_ids, attention_mask)
        return (memory, hidden) if cell is None else (memory, hidden, cell)


class DecoderStep(nn.Module):
    """One token: input_ids (B, 1), encoder states and mask, decoder states -> logits, new states, attention weights"""

    def __init__(self, model: RnnAttention) -> None:
        super().__init__()
        self.config, self.decoder, self.lm_head = model.config, model.decoder, model.lm_head

    def forward(
        self,
        input_ids: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        hidden: Tensor,
        attentional_state: Tensor,
        cell: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        attentional, hidden, cell, weights = self.decoder(
            input_ids, hidden, cell, attentional_state, None, encoder_hidden_states, attention_mask
        )
        states = (hidden,) if cell is None else (hidden, cell)
        return self.lm_head(attentional).unsqueeze(1), attentional, *states, weights


class TeacherForced(nn.Module):
    """input_ids, attention_mask, decoder_input_ids -> logits; the parts of MarianMTModel under their own names"""

    def __init__(self, model: Marian) -> None:
        super().__init__()
        self.model, self.lm_head = model.marian.model, model.marian.lm_head
        self.final_logits_bias = model.marian.final_logits_bias

    def forward(self, input_ids: Tensor, attention_mask: Tensor, decoder_input_ids: Tensor) -> Tensor:
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, decoder_input_ids=decoder_input_ids, use_cache=False
        )
        return self.lm_head(out.last_hidden_state) + self.final_logits_bias


def to_onnx(
    model: nn.Module,
    path: Path,
    inputs: dict[str, Tensor],
    outputs: dict[str, dict[int, str]],
    axes: dict[str, dict[int, str]],
    exporter: str,
) -> None:
    """Axes named in `axes` and `outputs` are free in the file. Constants are not folded: each weight keeps its name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            shapes = tuple(dict.fromkeys(axes[name], torch.export.Dim.DYNAMIC) for name in inputs)
            torch.onnx.export(
                model,
                tuple(inputs.values()),
                str(path),
                input_names=list(inputs),
                dynamo=True,
                output_names=list(outputs),
                dynamic_shapes=shapes,
                external_data=False,
                verbose=False,
            )
        else:
            torch.onnx.export(
                model,
                tuple(inputs.values()),
                str(path),
                input_names=list(inputs),
                dynamo=False,
                output_names=list(outputs),
                dynamic_axes={**axes, **outputs},
                opset_version=17,
                do_constant_folding=False,
            )


def export_rnn(model: RnnAttention, folder: Path, exporter: str) -> None:
    config, batch, source = model.config, {0: "batch"}, {0: "batch", 1: "source"}
    state = {1: "batch"}
    ids, mask = torch.randint(3, 99, (2, SOURCE_LENGTH)), torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
    cells = ["cell"] if config.cell == "lstm" else []
    states = {"hidden": state, **dict.fromkeys(cells, state)}
    masks, free = ({}, batch) if exporter == "dynamo" else ({"attention_mask": mask}, source)
    to_onnx(
        EncoderStep(model),
        folder / "encoder_model.onnx",
        {"input_ids": ids, **masks},
        {"last_hidden_state": source, **states},
        {"input_ids": free, "attention_mask": source},
        exporter,
    )
    with torch.no_grad():
        memory, hidden, cell = model.encode(ids, mask)
    inputs = {
        "input_ids": torch.tensor([[5], [6]]),
        "encoder_hidden_states": memory,
        "attention_mask": mask,
        "hidden": hidden,
        "attentional_state": torch.zeros(2, config.attention_output_size),
        **({"cell": cell} if cells else {}),
    }
    axes = {
        "input_ids": batch,
        "encoder_hidden_states": source,
        "attention_mask": source,
        "hidden": state,
        "attentional_state": batch,
        "cell": state,
    }
    outputs = {
        "logits": batch,
        "new_attentional_state": batch,
        **{f"new_{name}": state for name in states},
        "attention_weights": {0: "batch", 2: "source"},
    }
    to_onnx(
        DecoderStep(model),
        folder / "decoder_model.onnx",
        inputs,
        outputs,
        {name: axes[name] for name in inputs},
        exporter,
    )


def export_marian(model: Marian, folder: Path, exporter: str) -> None:
    source, target = {0: "batch", 1: "source"}, {0: "batch", 1: "target"}
    inputs = {
        "input_ids": torch.randint(3, 99, (2, 7)),
        "attention_mask": torch.tensor([[1] * 7, [1] * 5 + [0] * 2]),
        "decoder_input_ids": torch.randint(3, 99, (2, 6)),
    }
    to_onnx(
        TeacherForced(model),
        folder / "model.onnx",
        inputs,
        {"logits": target},
        {"input_ids": source, "attention_mask": source, "decoder_input_ids": target},
        exporter,
    )


def export(
    model: RnnAttention | Marian, folder: Path, source: Tokenizer, target: Tokenizer, exporter: str = "torchscript"
) -> None:
    """Write everything a folder needs but the model card. `exporter`: torchscript | dynamo."""
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, RnnAttention):
        model.config.save(folder)
        export_rnn(model, folder, exporter)
    else:
        config = {
            key: value
            for key, value in model.marian.config.to_diff_dict().items()
            if not key.startswith("_") and key != "transformers_version"
        }
        write_json(folder / "config.json", {"architectures": ["MarianMTModel"], "tie_word_embeddings": True, **config})
        export_marian(model, folder, exporter)
    write_json(
        folder / "generation_config.json",
        {
            "decoder_start_token_id": PAD,
            "eos_token_id": EOS,
            "pad_token_id": PAD,
            "max_new_tokens": MAX_NEW_TOKENS,
            "num_beams": 1,
        },
    )
    source.save(str(folder / "tokenizer.json"), pretty=False)
    target.save(str(folder / "target_tokenizer.json"), pretty=False)


def write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")


# ------------------------------------------------------------------------------------------------- checking the files
class OnnxTranslator:
    """Greedy search over the exported files with onnxruntime."""

    def __init__(self, folder: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.files = {path.stem: onnxruntime.InferenceSession(str(path), options) for path in folder.glob("*.onnx")}
        self.start = PAD

    def greedy(self, sources: list[list[int]], max_new_tokens: int = MAX_NEW_TOKENS) -> list[list[int]]:
        if "encoder_model" in self.files and len(self.files["encoder_model"].get_inputs()) == 1 and len(sources) > 1:
            return [self.greedy([source], max_new_tokens)[0] for source in sources]  # takes no padding
        ids = pad(sources).numpy()
        mask = pad([[1] * len(row) for row in sources], 0).numpy()
        step = self.teacher_forced(ids, mask) if "model" in self.files else self.recurrent(ids, mask)
        next(step)
        token, out = np.full((len(ids), 1), self.start), []
        for _ in range(max_new_tokens):
            token = step.send(token).argmax(1, keepdims=True)
            out.append(token)
            if all(EOS in row for row in np.concatenate(out, 1)):
                break
        rows = np.concatenate(out, 1).tolist()
        return [row[: row.index(EOS)] if EOS in row else row for row in rows]

    def teacher_forced(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        prefix = np.zeros((len(ids), 0), np.int64)
        logits = None
        while True:
            token = yield logits
            prefix = np.concatenate((prefix, token), 1)
            logits = self.files["model"].run(
                None, {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": prefix}
            )[0][:, -1]

    def recurrent(self, ids: np.ndarray, mask: np.ndarray) -> Any:
        encoder, decoder = self.files["encoder_model"], self.files["decoder_model"]
        given = {"input_ids": ids, "attention_mask": mask}
        memory, *states = encoder.run(None, {entry.name: given[entry.name] for entry in encoder.get_inputs()})
        names = ["hidden", "cell"][: len(states)]
        wanted = {entry.name: entry.shape for entry in decoder.get_inputs()}
        feed = {"encoder_hidden_states": memory, "attention_mask": mask, **dict(zip(names, states, strict=True))}
        if "attentional_state" in wanted:
            feed["attentional_state"] = np.zeros((len(ids), wanted["attentional_state"][1]), np.float32)
        outputs = [entry.name for entry in decoder.get_outputs()]
        logits = None
        while True:
            token = yield logits
            found = dict(
                zip(
                    outputs,
                    decoder.run(
                        None, {name: value for name, value in {**feed, "input_ids": token}.items() if name in wanted}
                    ),
                    strict=True,
                )
            )
            feed |= {name.removeprefix("new_"): value for name, value in found.items() if name.startswith("new_")}
            logits = found["logits"][:, 0]
