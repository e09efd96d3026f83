"""Marian at its full base size (512 wide, 6+6 layers, 58,101 words), exported by optimum on the spot, against transformers.

Needs PyTorch, transformers and optimum-onnx; everything else is tested on the small models under golden/.
"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip(
    "transformers", reason='transformers is not installed: pip install "transformers==4.57.*"'
)
exporters = pytest.importorskip(
    "optimum.exporters.onnx", reason="optimum-onnx is not installed: pip install optimum-onnx"
)

LENGTHS = [2, 3, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 17, 19, 22, 25, 30, 40]
PAD, EOS, VOCABULARY, NEW = 58_100, 0, 58_101, 10


@pytest.fixture(scope="module")
def hugging_face() -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(fastattn.get_num_threads())
    config = transformers.MarianConfig(
        vocab_size=VOCABULARY, d_model=512, encoder_layers=6, decoder_layers=6, encoder_attention_heads=8,
        decoder_attention_heads=8, encoder_ffn_dim=2048, decoder_ffn_dim=2048, max_position_embeddings=512, pad_token_id=PAD,
        eos_token_id=EOS, decoder_start_token_id=PAD, forced_eos_token_id=EOS, bos_token_id=None, scale_embedding=True,
        activation_function="swish", init_std=0.05, max_length=None, num_beams=1)  # fmt: skip
    model = transformers.MarianMTModel(config).eval()
    model.final_logits_bias.normal_()
    model.final_logits_bias[0, EOS] = 4.0
    model.generation_config.max_length = None
    return model


@pytest.fixture(scope="module")
def ours(hugging_face: Any, tmp_path_factory: pytest.TempPathFactory) -> fastattn.Model:
    saved, exported = tmp_path_factory.mktemp("saved"), tmp_path_factory.mktemp("exported")
    hugging_face.save_pretrained(saved)
    exporters.main_export(str(saved), exported, task="text2text-generation-with-past", do_validation=False)
    for path in Path(saved).glob("*.safetensors"):
        path.unlink()
    return fastattn.load(exported)


@pytest.fixture(scope="module")
def batch() -> tuple[list[list[int]], Any, Any]:
    rng = np.random.default_rng(1)
    rows = [[*rng.integers(1, PAD, n - 1).tolist(), EOS] for n in LENGTHS]
    ids = torch.full((len(rows), max(LENGTHS)), PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return rows, ids, mask


def test_logits_are_as_close_to_float64_as_pytorchs(hugging_face: Any, ours: fastattn.Model, batch: Any) -> None:
    rows, ids, mask = (part[::5] for part in batch)
    targets = torch.randint(1, PAD, (len(rows), 6), generator=torch.Generator().manual_seed(2))
    targets[:, 0] = PAD
    with torch.no_grad():
        theirs = hugging_face(input_ids=ids, attention_mask=mask, decoder_input_ids=targets).logits
        exact = hugging_face.double()(input_ids=ids, attention_mask=mask, decoder_input_ids=targets).logits
        hugging_face.float()
    logits = ours.logits(rows, targets.numpy())
    assert np.abs(logits - exact.numpy()).max() <= 2 * np.abs(theirs.numpy() - exact.numpy()).max()


CASES = [{"num_beams": 1}] + [
    {"num_beams": 4, "early_stopping": early, "length_penalty": penalty}
    for early, penalty in itertools.product((True, False, "never"), (0.6, 1.0, 2.0))
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_ids_equal_hugging_faces(hugging_face: Any, ours: fastattn.Model, batch: Any, options: dict[str, Any]) -> None:
    rows, ids, mask = batch
    with torch.no_grad():
        out = hugging_face.generate(ids, attention_mask=mask, max_new_tokens=NEW, **options).tolist()
    expected = [row[1:][: row[1:].index(EOS)] if EOS in row[1:] else row[1:] for row in out]
    assert [g.token_ids for g in ours.generate(rows, max_new_tokens=NEW, **options)] == expected
