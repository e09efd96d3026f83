"""Many threads, one model: each call has a session of its own, and the results are those of one after another."""

from concurrent.futures import ThreadPoolExecutor

import fastattn

model = fastattn.load("en-fr-bahdanau", num_threads=1)
sentences = ["I am eating an apple", "she sees a dog", "the cat is small", "we are reading a book"] * 4


def translate(sentence: str) -> str:
    return model.generate(sentence).text


with ThreadPoolExecutor(8) as pool:
    together = list(pool.map(translate, sentences))
print("the same as one after another:", together == [translate(sentence) for sentence in sentences])
print("streamed:", "|".join(model.stream("I am eating an apple")))
