"""T5 small at its full size (512 wide, 6+6 layers, 32,128 words) with random weights, saved in shards on the spot, against
transformers.

Needs PyTorch, transformers and safetensors; everything else is tested on the small models under golden/.
"""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

import fastattn

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip(
    "transformers", reason='transformers is not installed: pip install "transformers==4.57.*"'
)

LENGTHS = [2, 3, 4, 5, 7, 9, 12, 17, 25, 40, 150]
PAD, EOS, VOCABULARY, NEW = 0, 1, 32_128, 10


@pytest.fixture(scope="module")
def hugging_face() -> Any:
    torch.manual_seed(0)
    torch.set_num_threads(fastattn.get_num_threads())
    config = transformers.T5Config(decoder_start_token_id=PAD, vocab_size=VOCABULARY)
    model = transformers.T5ForConditionalGeneration(config).eval()
    with torch.no_grad():  # as initialised, the embedding drowns the layers and every step repeats its input
        model.shared.weight.mul_(0.05)
        model.decoder.final_layer_norm.weight.mul_(40.0)
        for name, parameter in model.named_parameters():
            if name.endswith("relative_attention_bias.weight"):
                parameter.normal_(0.0, 1.0)
            elif name.endswith(".q.weight"):
                parameter.mul_(8.0)
    return model


@pytest.fixture(scope="module")
def ours(hugging_face: Any, tmp_path_factory: pytest.TempPathFactory) -> fastattn.Model:
    saved = tmp_path_factory.mktemp("saved")
    hugging_face.save_pretrained(saved, max_shard_size="70MB")
    assert len(list(saved.glob("model-*-of-*.safetensors"))) > 2
    return fastattn.load(saved)


@pytest.fixture(scope="module")
def batch() -> tuple[list[list[int]], Any, Any]:
    rng = np.random.default_rng(1)
    rows = [[*rng.integers(2, VOCABULARY, n - 1).tolist(), EOS] for n in LENGTHS]
    ids = torch.full((len(rows), max(LENGTHS)), PAD)
    mask = torch.zeros_like(ids)
    for i, row in enumerate(rows):
        ids[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), 1
    return rows, ids, mask


def test_logits_are_as_close_to_float64_as_pytorchs(hugging_face: Any, ours: fastattn.Model, batch: Any) -> None:
    rows, ids, mask = (part[::3] for part in batch)
    targets = torch.randint(2, VOCABULARY, (len(rows), 6), generator=torch.Generator().manual_seed(2))
    targets[:, 0] = PAD
    with torch.no_grad():
        theirs = hugging_face(input_ids=ids, attention_mask=mask, decoder_input_ids=targets).logits
        exact = hugging_face.double()(input_ids=ids, attention_mask=mask, decoder_input_ids=targets).logits
        hugging_face.float()
    logits = ours.logits(rows, targets.numpy())
    assert np.abs(logits - exact.numpy()).max() <= 2 * np.abs(theirs.numpy() - exact.numpy()).max()


CASES = [{"num_beams": 1}] + [
    {"num_beams": 4, "early_stopping": early, "length_penalty": penalty}
    for early, penalty in itertools.product((True, False), (0.6, 2.0))
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_ids_equal_hugging_faces(hugging_face: Any, ours: fastattn.Model, batch: Any, options: dict[str, Any]) -> None:
    rows, ids, mask = batch
    with torch.no_grad():
        out = hugging_face.generate(ids, attention_mask=mask, max_new_tokens=NEW, **options).tolist()
    expected = [row[1:][: row[1:].index(EOS)] if EOS in row[1:] else row[1:] for row in out]
    assert len({tuple(row) for row in expected}) > len(rows) // 2
    assert [g.token_ids for g in ours.generate(rows, max_new_tokens=NEW, **options)] == expected
