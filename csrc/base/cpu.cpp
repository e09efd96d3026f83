#include "base/cpu.h"

#include <unistd.h>

#include <cstring>

#if defined(__x86_64__)
#  include <cpuid.h>
#endif

namespace fastattn {
namespace {

#if defined(__x86_64__)
constexpr bool all_set(unsigned word, unsigned bits) { return (word & bits) == bits; }

// The register state that the operating system saves and restores (XCR0); only to be called where OSXSAVE is set.
unsigned saved_state() {
  unsigned low, high;
  __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
  return low;
}

// Read from cpuid itself: what __builtin_cpu_supports knows depends on the compiler and its runtime.
bool x86_supports(const char* isa) {
  constexpr unsigned kFma = 1u << 12, kOsxsave = 1u << 27, kAvx = 1u << 28, kF16c = 1u << 29;  // leaf 1, ecx
  constexpr unsigned kBmi1 = 1u << 3, kAvx2 = 1u << 5, kBmi2 = 1u << 8;                        // leaf 7, ebx
  constexpr unsigned kAvx512 = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;                      // f, dq, bw, vl
  constexpr unsigned kVnni = 1u << 11;                                                         // leaf 7, ecx
  constexpr unsigned kBf16 = 1u << 5;                                                          // leaf 7.1, eax
  constexpr unsigned kYmmState = 0x06, kZmmState = 0xe6;
  unsigned a, b, c, d;
  if (!__get_cpuid(1, &a, &b, &c, &d) || !all_set(c, kFma | kOsxsave | kAvx | kF16c)) return false;
  const unsigned state = saved_state();
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !all_set(b, kBmi1 | kAvx2 | kBmi2)) return false;
  if (!std::strcmp(isa, "avx2")) return all_set(state, kYmmState);
  const bool avx512 = all_set(state, kZmmState) && all_set(b, kAvx512);
  if (!std::strcmp(isa, "avx512")) return avx512;
  const bool vnni = avx512 && all_set(c, kVnni);
  if (!std::strcmp(isa, "avx512vnni")) return vnni;
  // A CPU without leaf 7.1 answers with zeros.
  if (!std::strcmp(isa, "avx512bf16")) return vnni && __get_cpuid_count(7, 1, &a, &b, &c, &d) && all_set(a, kBf16);
  return false;
}

// The family of an AMD processor (0x19: Zen 3 and 4, 0x1a: Zen 5), 0 for any other.
unsigned amd_family() {
  unsigned a, b, c, d;
  if (!__get_cpuid(0, &a, &b, &c, &d) || b != 0x68747541 || d != 0x69746e65 || c != 0x444d4163)
    return 0;  // AuthenticAMD
  if (!__get_cpuid(1, &a, &b, &c, &d)) return 0;
  return (a >> 8 & 0xf) + (a >> 20 & 0xff);
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

int64_t cache_bytes(int level) {
  long bytes = 0;
#if defined(_SC_LEVEL1_DCACHE_SIZE)
  bytes = sysconf(level == 1 ? _SC_LEVEL1_DCACHE_SIZE : _SC_LEVEL2_CACHE_SIZE);
#endif
  return bytes > 0 ? bytes : level == 1 ? 32 * 1024 : 1024 * 1024;
}

bool prefetches_lead() {
#if defined(__x86_64__)
  static const bool zen5 = amd_family() >= 0x1a;
  return zen5;
#else
  return false;
#endif
}

}  // namespace fastattn
