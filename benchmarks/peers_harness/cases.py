"""What is measured: which model, how many rows, beams and tokens of context, by which engines."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

OURS = "fastattn"
TYPES = ("float32", "bfloat16", "int8", "int4")


@dataclass(frozen=True)
class Participant:
    """An engine with its weights in one type. variant: the instruction set forced on it, "MKL" for CTranslate2 with MKL turned
    on, or llama.cpp's name of a type of so many bits; "" for its own choice."""

    engine: str
    dtype: str
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.engine}{'-' + self.variant if self.variant else ''}/{self.dtype}"

    @classmethod
    def parse(cls, name: str) -> Participant:
        engine, _, dtype = name.partition("/")
        engine, _, variant = engine.partition("-")
        return cls(engine, dtype, variant)

    @property
    def weights(self) -> str:
        """The type as its engine is told it."""
        return self.variant if self.variant and self.engine == "llamacpp" else self.dtype


# Side by side in a round: what is compared most is measured next to each other.
PARTICIPANTS = tuple(
    Participant.parse(name)
    for name in (
        "ctranslate2/float32", "fastattn/float32", "ctranslate2-AVX512/float32", "ctranslate2-MKL/float32", "torch/float32",
        "llamacpp/float32", "llamacpp/bfloat16", "fastattn/bfloat16", "torch/bfloat16", "ctranslate2/int8", "fastattn/int8",
        "llamacpp/int8", "ctranslate2-AVX512/int8", "ctranslate2-MKL/int8", "llamacpp/int4", "fastattn/int4",
        "llamacpp-Q4_K_M/int4", "ort/float32", "numpy/float32",
    )
)  # fmt: skip
PEERS = {  # engine -> what to say of it, and how to install it
    "ctranslate2": ("CTranslate2", "pip install ctranslate2"),
    "torch": ("PyTorch, transformers", 'pip install torch "transformers==4.57.*"'),
    "ort": ("ONNX Runtime, optimum", "pip install optimum-onnx onnxruntime"),
    "llamacpp": ("llama.cpp", "pip install llama-cpp-python gguf (built from source, for some minutes)"),
    "numpy": ("NumPy reference", "part of fastattn"),
}


@dataclass(frozen=True)
class Case:
    """context: tokens of the source or the prompt, the same for all rows; new: tokens each row generates; priority: 0 is
    measured first."""

    model: str
    batch: int
    beams: int
    context: int
    new: int
    priority: int = 1
    threads: int = 2

    @property
    def label(self) -> str:
        """What --case looks for, and the key of the results."""
        return f"{self.model} batch={self.batch} beams={self.beams} context={self.context} threads={self.threads}"

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def new_tokens(model: str, rows: int) -> int:
    """So many that prefill and first steps weigh little, while a turn takes some tenths of a second (Llama: some seconds)."""
    if model == "llama-1b":
        return 16
    return 40 if rows <= 4 else 24


def cases(threads: int = 2, quick: bool = False) -> list[Case]:
    """All cases, what the targets need first. Quick: one model of each kind, its first cases."""
    found = []

    def add(model: str, batch: int, beams: int, context: int, priority: int) -> None:
        found.append(Case(model, batch, beams, context, new_tokens(model, batch * beams), priority, threads))

    for model in ("marian-base", "t5-small", "gpt2-small"):
        add(model, 1, 1, 32, 0)
        add(model, 16, 1, 32, 0)
        add(model, 1, 4, 32, 0)
        add(model, 4, 1, 32, 1)
        add(model, 4, 4, 32, 2)
        add(model, 16, 4, 32, 2)
    for batch, beams in ((1, 1), (4, 1), (16, 1), (1, 4)):  # one after the other: it takes long to load
        add("llama-1b", batch, beams, 32, 1)
    for model, contexts in CONTEXTS.items():
        for context in contexts:
            add(model, 1, 1, context, (2 if context <= 1000 else 3 if context < 8000 else 4) - (model == "llama-1b"))
    if quick:
        found = [
            c for c in found if c.priority == 0 and c.model in ("marian-base", "gpt2-small") and c.batch * c.beams < 16
        ]
    return sorted(found, key=lambda case: case.priority)


@cache
def intel() -> bool:
    """Whether the CPU is Intel's, where CTranslate2 uses MKL without being told. False where the system does not say."""
    file = Path("/proc/cpuinfo")
    return file.exists() and "GenuineIntel" in file.read_text()


def takes_part(participant: Participant, case: Case) -> bool:
    """Whether a participant is measured in a case: where one call takes half a minute, only those that tell most."""
    if participant.variant == "MKL" and intel():
        return False
    if participant.engine == "llamacpp" and (case.beams > 1 or case.model not in ("gpt2-small", "llama-1b")):
        return False  # it has no beam search, and is set against the models it is made for
    if case.context < 2000:
        return True
    if participant.variant or participant.engine == "numpy" or participant.dtype in ("bfloat16", "int4"):
        return False
    if case.context < 8000:
        return True
    # Measured beside the weights, which are 5 GB in float32: CTranslate2 takes 11 GB for 8,128 tokens of the Llama shape,
    # ONNX Runtime 5 GB for 2,048.
    return participant.engine != "ort" and not (case.model == "llama-1b" and participant.name == "ctranslate2/float32")


CONTEXTS = {  # as far as the model's positions go, or (T5) the attention of its encoder stays affordable
    "marian-base": (128, 448),
    "t5-small": (128, 512, 2048, 8192),
    "gpt2-small": (128, 448, 960),
    "llama-1b": (512, 2048, 8128),
}
