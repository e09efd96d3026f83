// Checks every kernel of one instruction set against scalar double code.
//   selftest ISA              check; exit status 1 if anything is wrong
//   selftest ISA measure      speed on one thread
//   selftest ISA exhaustive   the elementary functions at every 7th float
//   selftest                  names what this CPU can run
#include <cstdarg>

#include "dispatch/dispatch.h"
#include "selftest/check.h"

namespace fastattn::selftest {

long checks = 0, failures = 0;

void report(bool ok, const char* format, ...) {
  ++checks;
  if (ok || ++failures > 20) return;
  std::printf("FAILED ");
  va_list arguments;
  va_start(arguments, format);
  std::vprintf(format, arguments);
  va_end(arguments);
  std::printf("\n");
}

}  // namespace fastattn::selftest

int main(int argc, char** argv) {
  using namespace fastattn::selftest;
  if (argc < 2) {
    for (const std::string& name : fastattn::available_isas()) std::printf("%s\n", name.c_str());
    return 0;
  }
  try {
    fastattn::set_isa(argv[1]);
  } catch (const std::exception& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
  const std::string mode = argc > 2 ? argv[2] : "";
  if (mode == "measure") {
    measure();
    return 0;
  }
  test_math(mode == "exhaustive" ? 7 : 30011);
  test_rows();
  test_linear();
  test_scores();
  test_attention();
  test_attention_cache();
  test_attention_rounded();
  test_page_pool();
  std::printf("%s: %ld checks, %ld failures\n", fastattn::active_isa().c_str(), checks, failures);
  return failures ? 1 : 0;
}
