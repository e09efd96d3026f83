"""Memory and time of loading, in processes of their own, on a random Marian of some 290 MB in float32."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fastattn
from fastattn.models import build
from fastattn.packing import COMPUTE_TYPES

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux tells these figures")
MB = 1_000_000
OTHER = 60 * MB  # the interpreter, NumPy, the engine, one session
CONFIG = {
    "model_type": "marian",
    "d_model": 512,
    "vocab_size": 58101,
    "encoder_layers": 6,
    "decoder_layers": 6,
    "encoder_attention_heads": 8,
    "decoder_attention_heads": 8,
    "encoder_ffn_dim": 2048,
    "decoder_ffn_dim": 2048,
    "max_position_embeddings": 512,
    "activation_function": "swish",
    "scale_embedding": True,
    "pad_token_id": 58100,
    "eos_token_id": 0,
    "decoder_start_token_id": 58100,
}
STATUS = """
import re
from pathlib import Path
def status(*keys):
    text = Path("/proc/self/status").read_text()
    return [1024 * int(re.search(rf"{key}:\\s+(\\d+)", text)[1]) for key in keys]
"""
LOAD = (
    STATUS
    + """
import json, sys, time
import fastattn
begin = time.perf_counter()
model = fastattn.load(sys.argv[1], compute_type=sys.argv[2] or None)
loaded = time.perf_counter() - begin
after, anonymous = status("VmRSS", "RssAnon")
model.generate([[5, 6, 7, 0]], max_new_tokens=1, num_beams=1)
first = time.perf_counter() - begin
used = status("RssAnon")[0]
print(json.dumps(dict(loaded=loaded, first=first, after=after, anonymous=anonymous, used=used, weights=model.weight_bytes)))
"""
)
CONVERT = (
    STATUS
    + """
import sys
import fastattn
fastattn.convert(sys.argv[1], sys.argv[2], compute_type=sys.argv[3])
print(status("VmHWM")[0])
"""
)


def in_a_process(code: str, *arguments: str) -> Any:
    run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights, every tensor a piece of one block of them, as Hugging Face's save_pretrained lays them out."""
    folder = tmp_path_factory.mktemp("marian-random")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shapes = {n: s for n, s in build(CONFIG, "").params.items() if "positions" not in n}
    block = np.random.default_rng(0).standard_normal(1 << 21, np.float32) * np.float32(0.05)
    header, at = {}, 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        header[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    with open(folder / "model.safetensors", "wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for shape in shapes.values():
            left = int(np.prod(shape))
            while left > 0:
                out.write(block[:left])
                left -= len(block)
    return folder


@pytest.mark.parametrize("kind", COMPUTE_TYPES)
def test_after_loading_there_are_the_packed_weights_and_little_else(model: Path, kind: str) -> None:
    found = in_a_process(LOAD, str(model), kind)
    assert found["after"] <= 1.15 * found["weights"] + OTHER
    sizes = {"float32": 1.0, "bfloat16": 0.5, "int8": 0.26, "int4": 0.15}
    parameters = sum(int(np.prod(shape)) for shape in build(CONFIG, "").params.values())
    assert found["weights"] <= sizes[kind] * 4 * parameters + 8 * MB


@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_converting_takes_the_memory_of_the_largest_tensor(model: Path, tmp_path: Path, kind: str) -> None:
    """A converted model is mapped: it starts at once, and takes no memory of its own."""
    peak = in_a_process(CONVERT, str(model), str(tmp_path / "out"), kind)
    largest = 4 * CONFIG["vocab_size"] * CONFIG["d_model"]
    assert peak <= 2.2 * largest + OTHER
    runs = [in_a_process(LOAD, str(tmp_path / "out"), "") for _ in range(3)]
    assert min(run["first"] for run in runs) < 0.3
    assert all(run["anonymous"] <= OTHER for run in runs)
    assert all(run["used"] <= OTHER + 20 * MB for run in runs)
    assert fastattn.load(tmp_path / "out").compute_type == kind
