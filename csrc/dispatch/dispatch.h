// The choice of instruction set: which KernelTable the library calls.
#pragma once

#include <string>
#include <vector>

#include "kernels/kernels.h"

namespace fastattn {

// The active table. First use takes the best instruction set, or the one FASTATTN_ISA names (see init_isa_from_env).
const KernelTable& kernels();

// Names this CPU can run, best first; the last is always "generic".
std::vector<std::string> available_isas();

std::string active_isa();

// Throws std::invalid_argument, naming what was asked and what is available. Safe beside running kernels: a call
// already under way finishes with the table it started with.
void set_isa(const std::string& name);

// Applies FASTATTN_ISA (unset or empty: the best). Throws std::invalid_argument if it names nothing this CPU can run.
void init_isa_from_env();

}  // namespace fastattn
