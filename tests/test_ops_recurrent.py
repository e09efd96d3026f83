"""GRU and LSTM steps and sequences against float64 written out, PyTorch where it is installed, and bit by bit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from ops_support import LAYOUTS, U, same_bits, threads

from fastattn import isa, ops

RNG = np.random.default_rng(5)
GATES = {"gru": 3, "lstm": 4}
FORMS = (np.asarray, ops.pack, np.asfortranarray)  # of a weight
Weights = list[tuple[np.ndarray, ...]]


@pytest.fixture(params=isa.available())
def each_isa(request: pytest.FixtureRequest) -> Iterator[None]:
    with isa.use(request.param):
        yield


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape, np.float32)


def weights_of(cell: str, width: int, H: int, layers: int = 1, directions: int = 1, bias: bool = True) -> Weights:
    rows, found = GATES[cell] * H, []
    for layer in range(layers):
        for _ in range(directions):
            I = directions * H if layer else width  # noqa: E741
            matrices = normal(rows, I) / I**0.5, normal(rows, H) / H**0.5
            found.append((*matrices, normal(rows), normal(rows)) if bias else matrices)
    return found


def run(cell: str, *args: object, **options: object) -> tuple[np.ndarray, ...]:
    """(output, h_n) of a GRU, (output, h_n, c_n) of an LSTM."""
    if cell == "gru":
        return ops.gru(*args, **options)
    output, (h, c) = ops.lstm(*args, **options)
    return output, h, c


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def exact_step(
    cell: str, x: np.ndarray, h: np.ndarray, c: np.ndarray, w: tuple[np.ndarray, ...]
) -> tuple[np.ndarray, np.ndarray]:
    w_ih, w_hh, b_ih, b_hh = (a.astype(np.float64) for a in (*w, *[np.zeros(len(w[0]))] * (4 - len(w))))
    gx, gh = np.split(x @ w_ih.T + b_ih, GATES[cell], -1), np.split(h @ w_hh.T + b_hh, GATES[cell], -1)
    if cell == "gru":
        r, z = sigmoid(gx[0] + gh[0]), sigmoid(gx[1] + gh[1])
        return (1 - z) * np.tanh(gx[2] + r * gh[2]) + z * h, c
    i, f, g, o = (a + b for a, b in zip(gx, gh, strict=True))
    c = sigmoid(f) * c + sigmoid(i) * np.tanh(g)
    return sigmoid(o) * np.tanh(c), c


def exact(cell: str, x: np.ndarray, weights: Weights, lengths: list[int], directions: int) -> tuple[np.ndarray, ...]:
    """From zero states, sequence by sequence and token by token, in float64."""
    x = x.astype(np.float64)
    last: list[list[np.ndarray]] = [[], []]
    for first in range(0, len(weights), directions):
        parts = []
        for d in range(directions):
            w = weights[first + d]
            out, H = np.zeros((*x.shape[:2], w[1].shape[1])), w[1].shape[1]
            ends = np.zeros((2, len(x), H))
            for b, n in enumerate(lengths):
                h = c = np.zeros(H)
                for t in reversed(range(n)) if d else range(n):
                    h, c = exact_step(cell, x[b, t], h, c, w)
                    out[b, t] = h
                ends[:, b] = h, c
            parts.append(out)
            last[0].append(ends[0])
            last[1].append(ends[1])
        x = np.concatenate(parts, -1)
    return (x, np.stack(last[0])) if cell == "gru" else (x, np.stack(last[0]), np.stack(last[1]))


def step_bound(x: np.ndarray, h: np.ndarray, w: tuple[np.ndarray, ...], c: float = 0.0) -> float:
    """Greatest error of one step: a gate's argument errs by its two products, and the gates (slope at most 1, 3 ULP
    each) enter the state through two products with what is at most 1, or c."""
    inner = (np.abs(x) @ np.abs(w[0]).T).max() * (x.shape[-1] + 3) + (np.abs(h) @ np.abs(w[1]).T).max() * (
        h.shape[-1] + 3
    )
    inner += 6 * sum(float(np.abs(b).max()) for b in w[2:])
    return float(U * (inner * 2 + 40) * (1 + c))


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("H", [1, 3, 7, 8, 15, 16, 17, 33, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_one_step(H: int, bias: bool) -> None:
    x, h, c = normal(5, 11), np.tanh(normal(5, H)), normal(5, H)
    for cell in GATES:
        w = weights_of(cell, 11, H, bias=bias)[0]
        truth = exact_step(cell, *(a.astype(np.float64) for a in (x, h, c)), w)
        bound = step_bound(x, h, w, float(np.abs(c).max()))
        if cell == "gru":
            found = ops.gru_cell(x, h, *w)
            assert same_bits(found[2:3], ops.gru_cell(x[2:3], h[2:3], *w))
            assert np.abs(found - truth[0]).max() <= bound
        else:
            found_h, found_c = ops.lstm_cell(x, h, c, *w)
            assert np.abs(found_h - truth[0]).max() <= bound and np.abs(found_c - truth[1]).max() <= bound


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("batch", [0, 1, 3, 8, 9])
def test_a_step_has_the_same_bits_with_packed_weights_and_arrays(cell: str, batch: int) -> None:
    x, w = normal(batch, 70), weights_of(cell, 70, 40)[0]
    states = [normal(batch, 40) for _ in range(1 if cell == "gru" else 2)]
    step = ops.gru_cell if cell == "gru" else ops.lstm_cell
    arrays, packed, turned = (np.array(step(x, *states, *map(form, w[:2]), *w[2:])) for form in FORMS)
    assert same_bits(arrays, packed) and same_bits(arrays, turned)


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize(("layers", "directions"), [(1, 1), (1, 2), (3, 1), (2, 2)])
@pytest.mark.parametrize("ragged", [False, True])
def test_sequences(cell: str, layers: int, directions: int, ragged: bool) -> None:
    """Against float64, within the error of one step times the number of steps and layers it passes through.

    With these weights a step spreads an error that came before by about a factor of one, which is tested generously
    as four.
    """
    B, T, I, H = 4, 6, 10, 12  # noqa: E741
    x, weights = normal(B, T, I), weights_of(cell, I, H, layers, directions)
    lengths = [6, 0, 1, 4] if ragged else [T] * B
    found = run(cell, x, weights, lengths=lengths if ragged else None, bidirectional=directions == 2)
    truth = exact(cell, x, weights, lengths, directions)
    widest = max(step_bound(np.abs(x), np.ones(H), w, 2.0) for w in weights[:directions])
    bound = 4 * T * layers * widest
    for a, b in zip(found, truth, strict=True):
        assert a.shape == b.shape and a.dtype == np.float32
        assert np.abs(a - b).max() <= bound
    for b, n in enumerate(lengths):
        assert not found[0][b, n:].any()


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("cell", GATES)
def test_a_sequence_is_its_steps_bit_by_bit(cell: str) -> None:
    x, w = normal(3, 5, 10), weights_of(cell, 10, 20)
    h = c = np.zeros((3, 20), np.float32)
    output = run(cell, x, w)[0]
    for t in range(5):
        if cell == "gru":
            h = ops.gru_cell(x[:, t], h, *w[0])
        else:
            h, c = ops.lstm_cell(x[:, t], h, c, *w[0])
        assert same_bits(output[:, t].copy(), h)


@pytest.mark.usefixtures("each_isa")
@pytest.mark.parametrize("cell", GATES)
def test_batch_padding_threads_and_a_pause_do_not_change_a_bit(cell: str) -> None:
    lengths = [9, 3, 0, 7]
    x, w = normal(4, 9, 48), weights_of(cell, 48, 128, layers=2, directions=2)
    with threads(1):
        together = run(cell, x, w, lengths=lengths, bidirectional=True)
    with threads(2):
        assert all(map(same_bits, together, run(cell, x, w, lengths=lengths, bidirectional=True)))
    padded = x.copy()
    for b, n in enumerate(lengths):
        padded[b, n:] = np.nan
        alone = run(cell, x[b : b + 1, :n], w, bidirectional=True)
        assert same_bits(alone[0], together[0][b : b + 1, :n])
        assert all(same_bits(s[:, :1], t[:, b : b + 1]) for s, t in zip(alone[1:], together[1:], strict=True))
    assert all(map(same_bits, together, run(cell, padded, w, lengths=lengths, bidirectional=True)))
    forward = w[:1]
    whole, *_ = run(cell, x, forward)
    _, *state = run(cell, x[:, :4], forward)
    rest, *_ = run(cell, x[:, 4:], forward, state[0] if cell == "gru" else tuple(state))
    assert same_bits(rest, whole[:, 4:].copy())


@pytest.mark.parametrize("cell", GATES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_strides_do_not_change_a_bit(cell: str, layout: str) -> None:
    x, w = normal(3, 5, 10), weights_of(cell, 10, 9)
    odd = LAYOUTS[layout]
    ours = [(odd(w[0][0]), odd(w[0][1]), *(odd(b[None])[0] for b in w[0][2:]))]
    assert all(map(same_bits, run(cell, x, w), run(cell, odd(x), ours)))


@pytest.mark.parametrize("cell", GATES)
def test_states_given_are_not_changed_and_pass_through_empty_sequences(cell: str) -> None:
    h = normal(1, 2, 6)
    kept = h.copy()
    state = h if cell == "gru" else (h, h)
    _, *after = run(cell, normal(2, 3, 4), weights_of(cell, 4, 6), state, lengths=[0, 3])
    assert same_bits(h, kept) and all(same_bits(s[0, 0], h[0, 0]) for s in after)
    output, *after = run(cell, np.zeros((0, 3, 4), np.float32), weights_of(cell, 4, 6))
    assert output.shape == (0, 3, 6) and after[0].shape == (1, 0, 6)
    output, *after = run(cell, np.zeros((2, 0, 4), np.float32), weights_of(cell, 4, 6), state)
    assert output.shape == (2, 0, 6) and same_bits(after[0], h)


@pytest.mark.parametrize("cell", GATES)
def test_equals_pytorch(cell: str) -> None:
    torch = pytest.importorskip("torch")
    module = getattr(torch.nn, cell.upper())(7, 9, num_layers=2, bidirectional=True, batch_first=True)
    flat = [p.detach().numpy() for p in module.parameters()]
    x, lengths = normal(3, 6, 7), [6, 2, 5]
    packed = torch.nn.utils.rnn.pack_padded_sequence(torch.from_numpy(x), lengths, True, enforce_sorted=False)
    with torch.no_grad():
        out, state = module(packed)
    out = torch.nn.utils.rnn.pad_packed_sequence(out, True)[0].numpy()
    weights = [tuple(flat[i : i + 4]) for i in range(0, 16, 4)]
    found = run(cell, x, weights, lengths=lengths, bidirectional=True)
    bound = 8 * 6 * 2 * max(step_bound(np.abs(x), np.ones(9), w, 2.0) for w in weights[:2])
    states = (state,) if cell == "gru" else state
    for ours, theirs in zip(found, (out, *(s.numpy() for s in states)), strict=True):
        assert np.abs(ours - theirs).max() <= bound
