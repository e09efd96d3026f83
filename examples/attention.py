"""What a translator looked at: as arrays, as an alignment, and as a heatmap in a file."""

import tempfile
from pathlib import Path

import fastattn

model = fastattn.load("en-fr-bahdanau")
result = model.generate("I am eating an apple", return_attention=True)
attention = result.attention
print(result.text)
print("shape [layer, head, target, source]:", attention.cross.shape)
for word in attention.alignment():
    print(f"{word.target:8} {word.source:8} {word.weight:.2f}")
with tempfile.TemporaryDirectory() as folder:
    picture = Path(folder) / "apple.svg"
    attention.plot(picture)
    print("plotted:", picture.stat().st_size > 1000)
