// Stands in for the generated file that holds the kernels, where there is no nvcc.
#include "card.h"

namespace zsl {

std::span<const unsigned char> kernel_image() { return {}; }

}  // namespace zsl
