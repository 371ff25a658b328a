// What runs on the card, and what is sent to it. nvcc compiles this for the card (kernels.cu); a C++ compiler can compile
// it for the CPU, as the tests do. Everything here is integer arithmetic, so both give the same bytes.
#pragma once

#include <cstdint>

#ifndef ZSL_DEVICE
#ifdef __CUDACC__
#define ZSL_DEVICE __host__ __device__ inline
#else
#define ZSL_DEVICE inline
#endif
#endif

namespace zsl::device {

// One axis of one picture: where its numbers begin in Batch::table. `first` (crop,), `taps` (crop, width).
struct AxisPlace {
  std::int64_t first;
  std::int64_t taps;
  std::int64_t width;
};

struct Picture {
  std::uint64_t pixels;     // address on the card of uint8 (height, row_bytes / 3, 3)
  std::int64_t row_bytes;
  std::int64_t top;         // first source row that the crop needs
  std::int64_t row_count;   // source rows that it needs
  std::int64_t narrow;      // where its (row_count, crop, 3) begins in Batch::narrow
  AxisPlace columns;
  AxisPlace rows;
};

// The argument of both kernels, passed by value; pointers are the card's.
struct Batch {
  const Picture* pictures;    // (count,)
  const std::int32_t* table;
  std::uint8_t* narrow;       // between the passes
  std::uint8_t* out;          // (count, crop, crop, 3)
  std::int64_t count;
  std::int64_t crop;
};

struct Index {
  std::int64_t column, row, picture;
};

constexpr int kFractionBits = 22;

ZSL_DEVICE std::uint8_t to_byte(std::int32_t sum) {
  const std::int32_t value = sum >> kFractionBits;
  return static_cast<std::uint8_t>(value < 0 ? 0 : value > 255 ? 255 : value);
}

// One pixel: the weighted sum of `width` pixels that lie `step` bytes apart.
ZSL_DEVICE void weigh(const std::uint8_t* source, std::int64_t step, const std::int32_t* taps, std::int64_t width,
                      std::uint8_t* out) {
  std::int32_t red = 1 << (kFractionBits - 1), green = red, blue = red;
  for (std::int64_t t = 0; t < width; ++t, source += step) {
    red += taps[t] * source[0];
    green += taps[t] * source[1];
    blue += taps[t] * source[2];
  }
  out[0] = to_byte(red);
  out[1] = to_byte(green);
  out[2] = to_byte(blue);
}

// First pass. A thread starts at `at` and goes on by `step`, so that any grid does the whole batch.
ZSL_DEVICE void resample_columns(const Batch& batch, Index at, Index step) {
  for (std::int64_t n = at.picture; n < batch.count; n += step.picture) {
    const Picture& picture = batch.pictures[n];
    const auto* pixels = reinterpret_cast<const std::uint8_t*>(picture.pixels);
    for (std::int64_t y = at.row; y < picture.row_count; y += step.row) {
      const std::uint8_t* source = pixels + (picture.top + y) * picture.row_bytes;
      std::uint8_t* out = batch.narrow + picture.narrow + y * batch.crop * 3;
      for (std::int64_t x = at.column; x < batch.crop; x += step.column) {
        const std::int32_t* taps = batch.table + picture.columns.taps + x * picture.columns.width;
        weigh(source + batch.table[picture.columns.first + x] * std::int64_t{3}, 3, taps, picture.columns.width,
              out + x * 3);
      }
    }
  }
}

// Second pass.
ZSL_DEVICE void resample_rows(const Batch& batch, Index at, Index step) {
  const std::int64_t row_bytes = batch.crop * 3;
  for (std::int64_t n = at.picture; n < batch.count; n += step.picture) {
    const Picture& picture = batch.pictures[n];
    for (std::int64_t y = at.row; y < batch.crop; y += step.row) {
      const std::int64_t begin = batch.table[picture.rows.first + y] - picture.top;
      const std::uint8_t* source = batch.narrow + picture.narrow + begin * row_bytes;
      const std::int32_t* taps = batch.table + picture.rows.taps + y * picture.rows.width;
      std::uint8_t* out = batch.out + (n * batch.crop + y) * row_bytes;
      for (std::int64_t x = at.column; x < batch.crop; x += step.column) {
        weigh(source + x * 3, row_bytes, taps, picture.rows.width, out + x * 3);
      }
    }
  }
}

}  // namespace zsl::device
