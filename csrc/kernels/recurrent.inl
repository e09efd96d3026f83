// What follows the two matrix products of a recurrent cell. Gates in PyTorch's order; in place (out equal to h) is
// allowed.

// gx = W_ih x + b_ih and gh = W_hh h + b_hh, each (3, H) with gates r, z, n:
//   r = sigmoid(gx_r + gh_r),  z = sigmoid(gx_z + gh_z),  n = tanh(gx_n + r gh_n),  out = (1 - z) n + z h
void gru_cell_row(const float* gx, const float* gh, const float* h, int64_t H, float* out) {
  for (int64_t i = 0; i < H; i += kLanes) {
    const int64_t left = H - i;
    const Vf r = sigmoid(load_up_to(gx + i, left) + load_up_to(gh + i, left));
    const Vf z = sigmoid(load_up_to(gx + H + i, left) + load_up_to(gh + H + i, left));
    const Vf n = tanh(fma(r, load_up_to(gh + 2 * H + i, left), load_up_to(gx + 2 * H + i, left)));
    store_up_to(out + i, fma(z, load_up_to(h + i, left), (set1(1.0f) - z) * n), left);
  }
}

// gx, gh: (4, H) with gates i, f, g, o:   c' = sigmoid(f) c + sigmoid(i) tanh(g),  h' = sigmoid(o) tanh(c')
void lstm_cell_row(const float* gx, const float* gh, const float* c, int64_t H, float* h_out, float* c_out) {
  for (int64_t j = 0; j < H; j += kLanes) {
    const int64_t left = H - j;
    const Vf i = sigmoid(load_up_to(gx + j, left) + load_up_to(gh + j, left));
    const Vf f = sigmoid(load_up_to(gx + H + j, left) + load_up_to(gh + H + j, left));
    const Vf g = tanh(load_up_to(gx + 2 * H + j, left) + load_up_to(gh + 2 * H + j, left));
    const Vf o = sigmoid(load_up_to(gx + 3 * H + j, left) + load_up_to(gh + 3 * H + j, left));
    const Vf cell = fma(f, load_up_to(c + j, left), i * g);
    store_up_to(c_out + j, cell, left);
    store_up_to(h_out + j, o * tanh(cell), left);
  }
}
