// What the CPU we run on can execute.
#pragma once

#include <cstdint>

namespace fastattn {

// True if the CPU and the operating system (saved registers) support the named instruction set:
// "generic", "avx2" (with fma and f16c), "avx512" (f, bw, dq, vl), "avx512vnni" (and vnni), "avx512bf16"
// (and bf16), "neon". False for any other name.
bool cpu_supports(const char* isa);

// Bytes of a core's data cache of level 1 or 2, or a usual size where the system does not say.
int64_t cache_bytes(int level);

// Whether the processor's own prefetching goes on from prefetch instructions, best from those to the first-level cache,
// as measured on Zen 5. Others follow loads alone (Zen 4), or were not measured (docs/decisions/read-in-order.md).
bool prefetches_lead();

}  // namespace fastattn
