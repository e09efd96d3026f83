"""Decoder-only models at usual sizes with random weights, saved by transformers on the spot, against transformers.

GPT-2 small (768 wide, 12 layers, 50,257 pieces) and a small LLaMA (512 wide, 4 layers, 32,000 pieces, grouped queries, long
prompts, bfloat16 files). Needs PyTorch and transformers; everything else is tested on the models under golden/.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn.models.rope import read_rope

torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch==2.13.0")
transformers = pytest.importorskip(
    "transformers", reason='transformers is not installed: pip install "transformers==4.57.*"'
)

LENGTHS = [1, 2, 5, 9, 14, 20, 33, 70]
EOS, PAD, NEW = 17, 3, 10
LLAMA3 = {
    "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64}  # fmt: skip


def config_of(name: str) -> Any:
    tokens = {"bos_token_id": 1, "eos_token_id": EOS, "pad_token_id": PAD}
    if name == "gpt2":
        return transformers.GPT2Config(**tokens)
    return transformers.LlamaConfig(
        **tokens, vocab_size=32000, hidden_size=512, intermediate_size=1376, num_hidden_layers=4, num_attention_heads=8,
        num_key_value_heads=2, max_position_embeddings=512, rope_theta=500000.0, rope_scaling=LLAMA3)  # fmt: skip


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, fastattn.Model]:
    torch.manual_seed(0)
    torch.set_num_threads(fastattn.get_num_threads())
    config = config_of(request.param)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias") or "norm" in name or ".ln_" in name:
                parameter.normal_(float(name.endswith("weight")), 0.1)
            else:
                parameter.normal_(0.0, 0.05)
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "llama":
        model.to(torch.bfloat16).save_pretrained(folder)
        model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    else:
        model.save_pretrained(folder)
    model.generation_config.max_length = None
    return model, fastattn.load(folder)


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(1)
    return [rng.integers(20, 30000, n).tolist() for n in LENGTHS]


def test_logits_are_as_close_to_float64_as_pytorchs(pair: Any) -> None:
    hugging_face, ours = pair
    rng = np.random.default_rng(2)
    ids = rng.integers(20, 30000, (2, 300))
    mask = torch.ones(ids.shape, dtype=torch.int64)
    with torch.no_grad():
        theirs = hugging_face(input_ids=torch.tensor(ids), attention_mask=mask).logits.numpy()
        exact = double_logits(hugging_face, torch.tensor(ids), mask)
    assert np.abs(ours.logits(ids) - exact).max() <= 2 * np.abs(theirs - exact).max()


def double_logits(model: Any, ids: Any, mask: Any) -> Any:
    """In float64 throughout: transformers computes RMS norms in float32."""

    def rms_norm(self: Any, x: Any) -> Any:
        return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)

    norm = next((type(m) for m in model.modules() if hasattr(m, "variance_epsilon")), None)
    with pytest.MonkeyPatch.context() as patch:
        if norm:
            patch.setattr(norm, "forward", rms_norm)
        exact = model.double()(input_ids=ids, attention_mask=mask).logits.numpy()
    model.float()
    return exact


CASES: list[dict[str, Any]] = [
    {"num_beams": 1},
    {"num_beams": 4, "length_penalty": 0.6, "early_stopping": True},
    {"num_beams": 4, "length_penalty": 2.0, "early_stopping": "never"},
    {"num_beams": 1, "repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
]


@pytest.mark.parametrize("options", CASES, ids=str)
def test_ids_equal_hugging_faces(pair: Any, options: dict[str, Any]) -> None:
    hugging_face, ours = pair
    rows = prompts()
    width = max(LENGTHS)
    ids = torch.tensor([[PAD] * (width - len(row)) + row for row in rows])
    with torch.no_grad():
        out = hugging_face.generate(
            ids, attention_mask=(ids != PAD).long(), max_new_tokens=NEW, do_sample=False, **options
        )[:, width:].tolist()
    expected = [row[: row.index(EOS)] if EOS in row else row for row in out]
    assert [g.token_ids for g in ours.generate(rows, max_new_tokens=NEW, **options)] == expected


SCALINGS: list[dict[str, Any] | None] = [
    None,
    {"rope_type": "linear", "factor": 3.0},
    {**LLAMA3, "original_max_position_embeddings": 8192},
    {"rope_type": "yarn", "factor": 16.0, "original_max_position_embeddings": 8192},
    {"rope_type": "yarn", "factor": 16.0, "mscale": 0.7, "mscale_all_dim": 1.0, "truncate": False, "beta_fast": 20.0},
    {"rope_type": "yarn", "factor": 4.0, "attention_factor": 1.3},
]  # fmt: skip


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: "-".join(map(str, (s or {"": "default"}).values())))
@pytest.mark.parametrize(("theta", "size"), [(10000.0, 64), (500000.0, 128), (1e6, 80)])
def test_turns_equal_transformers_up_to_131072(scaling: Any, theta: float, size: int) -> None:
    """Frequencies agree to 2 ULP; and where they are equal, cosines and sines to 1 ULP of 1 at every position."""
    config = transformers.LlamaConfig(
        hidden_size=2 * size, num_attention_heads=2, max_position_embeddings=131072, rope_theta=theta,
        rope_scaling=dict(scaling) if scaling else None)  # fmt: skip
    module = transformers.models.llama.modeling_llama.LlamaRotaryEmbedding(config)
    inv_freq, scale = read_rope({"rope_theta": theta, "rope_scaling": scaling}, size, 131072)
    theirs = module.inv_freq.numpy()
    ulps = np.abs(inv_freq.view(np.int32).astype(np.int64) - theirs.view(np.int32))
    assert ulps.max() <= 2 and (ulps == 0).mean() >= 0.9
    assert scale == pytest.approx(module.attention_scaling, rel=1e-12)
    positions = torch.tensor([[0, 1, 2, 100, 8191, 65535, 99_999, 131_071, 131_072]])
    cos, sin = (part[0, :, : size // 2].numpy() for part in module(torch.zeros(1, dtype=torch.float32), positions))
    angles = positions[0].numpy().astype(np.float32)[:, None] * inv_freq
    for ours, wanted in ((np.cos(angles.astype(np.float64)), cos), (np.sin(angles.astype(np.float64)), sin)):
        rounded = ours.astype(np.float32) * np.float32(scale)
        assert np.abs(rounded - wanted)[:, ulps == 0].max() <= 2**-23 * max(1.0, scale)
