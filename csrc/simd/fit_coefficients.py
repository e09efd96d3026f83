"""Fit the polynomials of csrc/simd/math.h and print them as C++ arrays.  Run: python csrc/simd/fit_coefficients.py

Each is the minimax polynomial (smallest worst weighted error) of a smooth function on an interval, found by Remez
exchange in 50 digits, its coefficients then rounded to float32; the error printed is that after rounding. Needs mpmath.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import pairwise

from mpmath import erf, erfc, exp, expm1, linspace, log, lu_solve, matrix, mp, mpf, pi, sqrt  # type: ignore[import-untyped]

mp.dps = 50
Function = Callable[[mpf], mpf]


def to_float32(x: mpf) -> mpf:
    return mpf(struct.unpack("f", struct.pack("f", float(x)))[0])


def minimax(f: Function, weight: Function, powers: list[int], a: mpf, b: mpf) -> tuple[list[mpf], mpf]:
    """Coefficients c of sum_i c[i] x**powers[i], and its worst weighted error |weight * (f - p)| on [a, b]."""
    n = len(powers)
    points = [(a + b) / 2 - (b - a) / 2 * mp.cos(pi * i / n) for i in range(n + 1)]
    grid = linspace(a, b, 600)
    for _ in range(12):
        system, right = matrix(n + 1, n + 1), matrix(n + 1, 1)
        for i, x in enumerate(points):
            for j, power in enumerate(powers):
                system[i, j] = x**power * weight(x)
            system[i, n] = (-1) ** i
            right[i] = f(x) * weight(x)
        solution = lu_solve(system, right)
        error = [weight(x) * (f(x) - sum(solution[j] * x ** powers[j] for j in range(n))) for x in grid]
        # The next points: the largest error between two sign changes.
        starts = [0] + [i for i in range(1, len(grid)) if error[i] * error[i - 1] < 0] + [len(grid)]
        if len(starts) != n + 2:
            break
        best = [max(range(s, e), key=lambda i: abs(error[i])) for s, e in pairwise(starts)]
        if [grid[i] for i in best] == points:
            break
        points = [grid[i] for i in best]
    return [solution[j] for j in range(n)], max(abs(e) for e in error)


def fit(name: str, f: Function, weight: Function, degree: int, a: float, b: float) -> None:
    exact, _ = minimax(f, weight, list(range(degree + 1)), mpf(a), mpf(b))
    rounded = [to_float32(c) for c in exact]
    grid = linspace(mpf(a), mpf(b), 2000)
    worst = max(abs(weight(x) * (f(x) - sum(c * x**i for i, c in enumerate(rounded)))) for x in grid)
    print(f"// worst error {float(worst):.2e} on [{float(a):.4g}, {float(b):.4g}]")
    print(f"constexpr float {name}[] = {{{', '.join(f'{float(c):.9g}f' for c in rounded)}}};\n")


def second_order(r: mpf) -> mpf:
    """(e^r - 1 - r) / r^2, by its series near 0."""
    if abs(r) > mpf("1e-12"):
        return (expm1(r) - r) / r**2
    return mpf(1) / 2 + r / 6


def first_order(r: mpf) -> mpf:
    """(2^r - 1) / r."""
    return (mpf(2) ** r - 1) / r if abs(r) > mpf("1e-12") else log(2) + r * log(2) ** 2 / 2


if __name__ == "__main__":
    high = mp.nint(log(2) * 512) / 512  # 9 bits: its product with any exponent is exact
    constants = {"kLog2E": 1 / log(2), "kLn2High": high, "kLn2Low": log(2) - high}
    print("constexpr float", ", ".join(f"{k} = {float(to_float32(v)):.9g}f" for k, v in constants.items()), end=";\n\n")
    half_ln2 = float(log(2) / 2) * 1.001
    # e^r = 1 + r + r^2 q(r): relative to e^r
    fit("kExp", second_order, lambda r: r**2 * exp(-r) + mpf("1e-20"), 4, -half_ln2, half_ln2)
    # 2^r = 1 + r q(r): relative to 2^r
    fit("kExp2", first_order, lambda r: abs(r) * mpf(2) ** (-r) + mpf("1e-20"), 5, -0.5005, 0.5005)
    # erf(x) = x + x p(x^2), |x| <= 1: relative to erf(x)
    fit("kErf", lambda t: erf(sqrt(t)) / sqrt(t) - 1, lambda t: sqrt(t) / erf(sqrt(t)), 6, 1e-20, 1.0)
    # erf(x) = 1 - exp(-p(x)), 1 <= x <= 4: an error of p counts erfc(x) times
    fit("kErfTail", lambda x: -log(erfc(x)), erfc, 7, 1.0, 4.0)
