// What ops and engine ask of what Python gives.
#pragma once

#include <pybind11/numpy.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "kernels/kernels.h"

namespace fastattn {

inline Activation activation_named(const std::string& name) {
  static const char* const names[] = {"none", "tanh", "sigmoid", "relu", "gelu", "gelu_tanh", "silu", "exp", "erf"};
  for (int i = 0; i < 9; ++i)
    if (name == names[i]) return static_cast<Activation>(i);
  throw std::invalid_argument("activation: unknown name '" + name + "'");
}

// Views of one element repeated have any size without having memory; products of sizes are reckoned in 64 bits.
inline void check_size(const pybind11::array& x, const std::string& name) {
  constexpr int64_t most_elements = int64_t{1} << 40;
  for (int i = 0; i < x.ndim(); ++i)
    if (x.shape(i) > INT32_MAX) throw std::invalid_argument(name + ": an axis is longer than 2^31 - 1");
  if (x.size() > most_elements) throw std::invalid_argument(name + ": more than 2^40 elements");
}

}  // namespace fastattn
