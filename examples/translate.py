"""Translates sentences with a bundled model, several at once, and names the words it does not know."""

import fastattn

model = fastattn.load("en-fr-transformer")
sentences = ["I am eating an apple", "she does not see the dogs", "I am eating a photon"]
for sentence, result in zip(sentences, model.generate(sentences, num_beams=4), strict=True):
    print(f"{sentence} -> {result.text}  (score {result.score:.3f}, {result.finish_reason})")
    if result.unknown_words:
        print("  unknown:", ", ".join(result.unknown_words))
