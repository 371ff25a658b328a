// Resize and crop of 8-bit RGB pictures in fixed point: the order of the passes, around the kernels of kernels.h.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "zsl/axis.h"
#include "zsl/kernels.h"

namespace zsl {

// pixels: (height, width, 3), row-major.
struct Picture {
  const std::uint8_t* pixels;
  std::size_t height;
  std::size_t width;
};

// Memory between the passes, kept from one picture to the next.
class Scratch {
 public:
  // At least `bytes` bytes, uninitialised; what an earlier call returned is gone.
  std::uint8_t* reserve(std::size_t bytes);

 private:
  std::unique_ptr<std::uint8_t[]> data_;
  std::size_t size_ = 0;
};

// Resamples columns, rounds to 8 bits, then resamples rows and rounds again.
//
// out: (rows.count, columns.count, 3), row-major, not overlapping the picture.
// Only the source rows under some window of `rows` are read, and no byte outside the picture.
//
// Throws std::invalid_argument as `check`; then `out` is untouched. Throws std::bad_alloc.
void resize_crop(const Picture& picture, const Axis& columns, const Axis& rows, const Kernels& kernels,
                 Scratch& scratch, std::uint8_t* out);

// Pictures of any sizes to squares by `square_axes`, shared out over `threads` threads, of which the caller's is one;
// fewer where the system starts no more. out: (pictures.size(), crop, crop, 3), row-major, not overlapping a picture.
//
// Throws std::invalid_argument as `square_axes`, std::bad_alloc; then `out` may be written in part.
void resize_crop_batch(const std::vector<Picture>& pictures, std::size_t resize, std::size_t crop, std::size_t threads,
                       const Kernels& kernels, std::uint8_t* out);

}  // namespace zsl
