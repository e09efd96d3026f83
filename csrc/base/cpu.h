// What the CPU we run on can execute.
#pragma once

namespace fastattn {

// True if the CPU and the operating system (saved registers) support the named instruction set:
// "generic", "avx2" (with fma and f16c), "avx512" (f, bw, dq, vl), "avx512vnni" (and vnni), "neon". False for any other
// name.
bool cpu_supports(const char* isa);

}  // namespace fastattn
