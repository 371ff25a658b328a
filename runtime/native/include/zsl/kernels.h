// The two inner loops of a resize, once for each instruction set, behind one table.
//
// Files that implement kernels are compiled for instructions that not every CPU has. They must therefore contain no
// function that another file could share (no std:: templates, no inline function outside an anonymous namespace): the
// linker keeps one copy of such a function, and it might be theirs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "zsl/axis.h"

namespace zsl {

// Every tap is high * 2^11 + low with 0 <= low < 2^11. `check` lets |tap| < 2^23 pass, so -2^12 <= high < 2^12: both
// parts are int16 and can be multiplied two at a time (pmaddwd) with samples widened to int16. With S_h and S_l the
// sums of high * sample and low * sample, the wanted sum is S_h * 2^11 + S_l; `check` bounds it by 255 * 2^23 < 2^31.
// The parts are added up modulo 2^32, as integer vectors do, and modulo 2^32 the combination is exact however many taps
// there are; as the true sum fits 32 bits, so is the result.
constexpr int kLowBits = 11;
constexpr std::size_t kTapsAtOnce = 4;     // columns: 4 pixels of 3 bytes are read by one load of 16 bytes
constexpr std::size_t kOutputsAtOnce = 4;  // columns: 4 pixels of 3 bytes are written by one store of 16 bytes
constexpr std::size_t kLoadBytes = 16;
constexpr std::size_t kLargestVector = 64;

// An Axis with its taps split in parts, two int16 to an int32 (the first tap in the lower half), zeros where padded.
struct Windows {
  Axis axis;
  const std::int32_t* first;  // (outputs,)
  const std::int32_t* high;   // (outputs, pairs)
  const std::int32_t* low;    // (outputs, pairs)
  std::size_t outputs;        // axis.count, rounded up to kOutputsAtOnce
  std::size_t pairs;          // 2 * pairs is axis.width, rounded up to kTapsAtOnce
};

struct Kernels {
  const char* name;
  std::size_t rows_at_once;  // source rows that one call of `resample_columns` takes

  // Source rows to rows of `windows.outputs` pixels, `rows_at_once` of them; a row may be given twice. Of a source row
  // of n pixels 3 n + 13 bytes may be read; of a row of `out` 3 * outputs + 4 bytes may be written.
  void (*resample_columns)(const std::uint8_t* const* rows, const Windows& windows, std::uint8_t* const* out);

  // Output `output` of the axis: `bytes` samples from rows that lie `stride` apart, of which the first is at `source`.
  // Whole vectors are read: bytes, rounded up to kLargestVector, <= stride. Exactly `bytes` are written.
  void (*resample_rows)(const std::uint8_t* source, std::size_t stride, const Windows& windows, std::size_t output,
                        std::size_t bytes, std::uint8_t* out);
};

// The kernels that this build has and this CPU can run, fastest first; the last one is "scalar".
const std::vector<const Kernels*>& usable_kernels();

// Those of that name; the fastest for "". Throws std::invalid_argument for any other.
const Kernels& kernels_named(const std::string& name);

extern const Kernels kScalar;
extern const Kernels kAvx2;
extern const Kernels kAvx512;
extern const Kernels kNeon;

}  // namespace zsl
