"""What `benchmarks/peers.py` is made of: the same models in every engine, each in a process of its own, measured in turns.

cases → what is measured · models → how each engine gets the same weights · engines, worker → one engine in one process ·
pool, runner → turns, calm, budget · limits → what memory allows · page, figures, targets → what is written of it
"""
