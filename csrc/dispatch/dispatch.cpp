#include "dispatch/dispatch.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "base/cpu.h"

namespace fastattn {

#if defined(__x86_64__)
extern const KernelTable kernels_avx512bf16, kernels_avx512vnni, kernels_avx512, kernels_avx2;
#elif defined(__aarch64__)
extern const KernelTable kernels_neon;
#endif
extern const KernelTable kernels_generic;

namespace {

struct Level {
  const char* name;
  KernelTable table;
};

// Row by row, the level's own kernel or, where it has none, that of the next lower level.
void fill_from(KernelTable& table, const KernelTable& lower) {
#define KERNEL(name, result, arguments) \
  if (!table.name) table.name = lower.name;
#include "kernels/kernels.def"
#undef KERNEL
}

// The levels this CPU can run, best first.
std::vector<Level> detect_levels() {
  const Level all[] = {
#if defined(__x86_64__)
      {"avx512bf16", kernels_avx512bf16}, {"avx512vnni", kernels_avx512vnni},
      {"avx512", kernels_avx512},         {"avx2", kernels_avx2},
#elif defined(__aarch64__)
      {"neon", kernels_neon},
#endif
      {"generic", kernels_generic},
  };
  std::vector<Level> usable;
  for (const Level& level : all)
    if (cpu_supports(level.name)) usable.push_back(level);
  for (size_t i = usable.size() - 1; i-- > 0;) fill_from(usable[i].table, usable[i + 1].table);
  return usable;
}

const std::vector<Level>& levels() {
  static const auto* usable = new std::vector<Level>(detect_levels());  // threads may use it while the process exits
  return *usable;
}

std::atomic<const Level*> active_level{nullptr};

const Level& find_level(const std::string& name, const char* source) {
  std::string available;
  for (const Level& level : levels()) {
    if (name == level.name) return level;
    available += std::string(available.empty() ? "" : ", ") + level.name;
  }
  throw std::invalid_argument(std::string(source) + ": instruction set '" + name +
                              "' is not available on this CPU; available: " + available);
}

const Level& level_from_env() {
  const char* name = std::getenv("FASTATTN_ISA");
  return name && *name ? find_level(name, "FASTATTN_ISA") : levels().front();
}

const Level& active() {
  const Level* level = active_level.load(std::memory_order_acquire);
  if (level) return *level;
  const Level* initial = &level_from_env();
  // Another thread may have chosen meanwhile: then its choice stands.
  if (active_level.compare_exchange_strong(level, initial)) level = initial;
  return *level;
}

}  // namespace

const KernelTable& kernels() { return active().table; }

std::string active_isa() { return active().name; }

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Level& level : levels()) names.push_back(level.name);
  return names;
}

void set_isa(const std::string& name) { active_level.store(&find_level(name, "isa"), std::memory_order_release); }

void init_isa_from_env() { active_level.store(&level_from_env(), std::memory_order_release); }

}  // namespace fastattn
