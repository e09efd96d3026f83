#include "base/cpu.h"

#include <cstring>

namespace fastattn {
namespace {

// __builtin_cpu_supports reads cpuid, and xgetbv for the register state that the operating system saves.
#if defined(__x86_64__)
bool x86_supports(const char* isa) {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c") &&
                    __builtin_cpu_supports("bmi2");
  if (!std::strcmp(isa, "avx2")) return avx2;
  if (std::strcmp(isa, "avx512")) return false;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#endif

}  // namespace

bool cpu_supports(const char* isa) {
  if (!std::strcmp(isa, "generic")) return true;
#if defined(__x86_64__)
  return x86_supports(isa);
#elif defined(__aarch64__)
  return !std::strcmp(isa, "neon");  // part of every ARMv8-A CPU
#else
  return false;
#endif
}

}  // namespace fastattn
