// Resize and crop of 8-bit RGB pictures in fixed point. Knows no Python: pointers and sizes only.
// The arithmetic is defined in ARCHITECTURE.md ("Pixels"); runtime/zsl_runtime/pixels.py holds the reference.
#pragma once

#include <cstddef>
#include <cstdint>

namespace zsl {

// Resampling of one axis: output i is the sum over t < width of taps[i * width + t] * source[first[i] + t],
// where a tap has 22 fractional bits.
struct Axis {
  const std::int32_t* first;  // (count,)
  const std::int32_t* taps;   // (count, width), row-major
  std::size_t count;
  std::size_t width;
};

// Resamples columns, rounds to 8 bits, then resamples rows and rounds again.
//
// pixels: (height, width, 3), row-major. out: (rows.count, columns.count, 3), row-major, not overlapping `pixels`.
// Only the source rows under some window of `rows` are read.
//
// Throws std::invalid_argument when a size is zero, a window leaves the picture, or taps are so large that a sum could
// leave 32 bits; then `out` is untouched. Throws std::bad_alloc.
void resize_crop(const std::uint8_t* pixels, std::size_t height, std::size_t width, const Axis& columns,
                 const Axis& rows, std::uint8_t* out);

}  // namespace zsl
