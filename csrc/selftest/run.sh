#!/bin/sh
# Compiles the kernels with their self-test and runs it under every instruction set that this machine has or can emulate.
#   csrc/selftest/run.sh [native|aarch64|old-x86|sanitize|measure]...     default: native aarch64 old-x86
# native: each instruction set of this CPU. aarch64: cross compiler and qemu-aarch64. old-x86: a static build under qemu-x86_64
# as a CPU without AVX. sanitize: native, with ASan and UBSan. measure: speed instead of checks.
# Exit status 3 and its name if a tool is missing. Objects are kept in build/selftest and follow their sources.
set -eu
cd -- "$(dirname -- "$0")/../.."  # and relative paths from here on: xargs splits at spaces
build=${FASTATTN_SELFTEST_BUILD:-build/selftest}
flags="-std=c++17 -ffp-contract=off -fno-math-errno -fvisibility=hidden -Wall -Wextra -Icsrc"
cxx=${CXX:-g++}
mkdir -p "$build"
if command -v flock >/dev/null; then  # two runs at once would write the same objects
  exec 9>"$build/lock"
  flock 9
fi

need() { command -v "$1" >/dev/null || { echo "missing: $1" >&2; exit 3; }; }

# objects DIRECTORY LEVEL COMPILER [FLAGS]: compiles what is older than any source, two files at a time.
# LEVEL is the optimisation of instruction sets beyond generic and neon: -O0 where they are linked and never run.
objects() {
  directory=$build/$1 wider=$2 compiler=$3
  shift 3
  need "$compiler"
  mkdir -p "$directory"
  for source in csrc/isa/*.cpp csrc/dispatch/*.cpp csrc/base/cpu.cpp csrc/ops/cache.cpp csrc/selftest/*.cpp; do
    object=$directory/$(basename "$source" .cpp).o
    level=-O1
    case $source in  # the kernels depend on everything to their left, the tests on headers only
      */isa/generic.cpp | */isa/neon.cpp) level=-O3 inputs="csrc/isa csrc/simd csrc/kernels" ;;
      */isa/*) level=$wider inputs="csrc/isa csrc/simd csrc/kernels" ;;
      *) inputs="csrc/kernels/kernels.h csrc/kernels/kernels.def csrc/dispatch csrc/base csrc/ops/cache.h csrc/selftest/check.h" ;;
    esac
    # shellcheck disable=SC2086
    [ -e "$object" ] && [ -z "$(find "$source" $inputs -type f -newer "$object")" ] || echo "$level $source $object"
  done | xargs -r -P 2 -L 1 sh -c "$compiler $flags $* \$0 -c \"\$1\" -o \"\$2\""
}

run() {  # COMMAND ISA...: the self-test under each
  program=$1
  shift
  for isa in "$@"; do $program "$isa"; done
}

for target in ${*:-native aarch64 old-x86}; do
  case $target in
    native | measure)
      objects native -O3 "$cxx"
      "$cxx" "$build"/native/*.o -o "$build/selftest"
      case $target in
        native) run "$build/selftest" $("$build/selftest") ;;
        measure) for isa in $("$build/selftest"); do "$build/selftest" "$isa" measure; done ;;
      esac
      ;;
    old-x86)
      need qemu-x86_64
      objects old-x86 -O0 "$cxx"
      "$cxx" -static "$build"/old-x86/*.o -o "$build/selftest-static"
      test "$(qemu-x86_64 -cpu qemu64 "$build/selftest-static")" = generic
      run "qemu-x86_64 -cpu qemu64 $build/selftest-static" generic
      ;;
    aarch64)
      need qemu-aarch64
      objects aarch64 -O3 aarch64-linux-gnu-g++
      aarch64-linux-gnu-g++ -static "$build"/aarch64/*.o -o "$build/selftest-aarch64"
      run "qemu-aarch64 $build/selftest-aarch64" neon generic
      ;;
    sanitize)
      objects sanitize -O3 "$cxx" -g -fsanitize=address,undefined -fno-sanitize-recover=all
      "$cxx" -fsanitize=address,undefined "$build"/sanitize/*.o -o "$build/selftest-sanitize"
      run "$build/selftest-sanitize" $("$build/selftest-sanitize")
      ;;
    *)
      echo "unknown target: $target" >&2
      exit 2
      ;;
  esac
done
