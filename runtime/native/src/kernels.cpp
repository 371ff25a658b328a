#include "zsl/kernels.h"

#include <stdexcept>

namespace zsl {
namespace {

std::vector<const Kernels*> find_usable() {
  std::vector<const Kernels*> usable;
#ifdef ZSL_X86_KERNELS
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
    usable.push_back(&kAvx512);
  }
  if (__builtin_cpu_supports("avx2")) {
    usable.push_back(&kAvx2);
  }
#endif
#ifdef ZSL_NEON_KERNELS
  usable.push_back(&kNeon);
#endif
  usable.push_back(&kScalar);
  return usable;
}

}  // namespace

const std::vector<const Kernels*>& usable_kernels() {
  static const std::vector<const Kernels*> usable = find_usable();
  return usable;
}

const Kernels& kernels_named(const std::string& name) {
  std::string known;
  for (const Kernels* kernels : usable_kernels()) {
    if (name.empty() || name == kernels->name) {
      return *kernels;
    }
    known += std::string(known.empty() ? "" : ", ") + kernels->name;
  }
  throw std::invalid_argument("kernels '" + name + "' are not usable here; usable: " + known);
}

}  // namespace zsl
