#!/bin/sh
# Compiles the kernels with their self-test and runs it under every instruction set that this machine has or can emulate.
#   csrc/selftest/run.sh [native|aarch64|old-x86|sanitize|measure]...     default: native aarch64 old-x86
# native: each available instruction set. aarch64: cross compiler and qemu-aarch64. old-x86: a static build under qemu-x86_64
# with a CPU that has no AVX. A missing cross compiler or emulator is named and counts as a failure.
set -eu
csrc=$(CDPATH= cd -- "$(dirname -- "$0")/.." && pwd)
build=${FASTATTN_SELFTEST_BUILD:-$csrc/../build/selftest}
mkdir -p "$build"
flags="-O3 -std=c++17 -ffp-contract=off -fno-math-errno -fvisibility=hidden -Wall -Wextra -I$csrc"

compile() {  # compiler, output, further flags
  compiler=$1 output=$2
  shift 2
  echo "compiling $(basename "$output") with $compiler"
  objects=$build/$(basename "$output").o
  mkdir -p "$objects"
  for source in "$csrc"/isa/*.cpp "$csrc"/dispatch/*.cpp "$csrc"/base/cpu.cpp "$csrc"/selftest/*.cpp; do
    object=$objects/$(basename "$source" .cpp).o
    # shellcheck disable=SC2086
    if [ ! -e "$object" ] || [ -n "$(find "$csrc"/isa "$csrc"/simd "$csrc"/kernels "$csrc"/dispatch "$csrc"/base "$csrc"/selftest -newer "$object" -type f)" ]; then
      $compiler $flags "$@" -c "$source" -o "$object"
    fi
  done
  # shellcheck disable=SC2086
  $compiler $flags "$@" "$objects"/*.o -o "$output"
}

need() { command -v "$1" >/dev/null || { echo "missing: $1" >&2; exit 3; }; }

for target in ${*:-native aarch64 old-x86}; do
  case $target in
    native | measure | sanitize)
      need "${CXX:-g++}"
      if [ "$target" = sanitize ]; then
        compile "${CXX:-g++}" "$build/sanitize" -fsanitize=address,undefined -fno-sanitize-recover=all
        run=$build/sanitize
      else
        compile "${CXX:-g++}" "$build/native"
        run=$build/native
      fi
      for isa in $("$run"); do
        if [ "$target" = measure ]; then "$run" "$isa" measure; else "$run" "$isa"; fi
      done
      ;;
    aarch64)
      need aarch64-linux-gnu-g++
      need qemu-aarch64
      compile aarch64-linux-gnu-g++ "$build/aarch64" -static
      for isa in neon generic; do qemu-aarch64 "$build/aarch64" $isa; done
      ;;
    old-x86)
      need "${CXX:-g++}"
      need qemu-x86_64
      compile "${CXX:-g++}" "$build/old-x86" -static
      test "$(qemu-x86_64 -cpu qemu64 "$build/old-x86")" = generic
      qemu-x86_64 -cpu qemu64 "$build/old-x86" generic
      ;;
    *)
      echo "unknown target: $target" >&2
      exit 2
      ;;
  esac
done
