// The best columns of each row, in two launches that need nothing of each other's threads: whatever order threads run in,
// the result is the same. Compiled by nvcc for the card (kernels.cu) and by a C++ compiler for the tests.
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

// The argument of both kernels, passed by value; pointers are the card's.
struct TopK {
  const float* scores;        // (rows, columns)
  std::int32_t* held;         // (rows, slices, count): columns of each slice's best, best first; -1 behind the last
  std::int32_t* out_columns;  // (rows, count)
  float* out_scores;          // (rows, count)
  std::int64_t rows, columns, slices, count;
};

struct Place {
  std::int64_t column, row;
};

// Whether `score` at `column` stands before `other` at `other_column`: larger first, equal ones in the order of columns,
// what is not a number last. 0.0 and -0.0 are equal.
ZSL_DEVICE bool stands_before(float score, std::int64_t column, float other, std::int64_t other_column) {
  if (score > other) return true;
  if (score < other) return false;
  const bool number = score == score, other_number = other == other;
  return number == other_number ? column < other_column : number;
}

// First launch: slice s of a row is its columns s, s + slices, s + 2 slices ..., so that neighbours read neighbours.
ZSL_DEVICE void best_of_slices(const TopK& job, Place at, Place step) {
  for (std::int64_t row = at.row; row < job.rows; row += step.row) {
    const float* scores = job.scores + row * job.columns;
    for (std::int64_t slice = at.column; slice < job.slices; slice += step.column) {
      std::int32_t* held = job.held + (row * job.slices + slice) * job.count;
      std::int64_t filled = 0;
      for (std::int64_t column = slice; column < job.columns; column += job.slices) {
        const float score = scores[column];
        if (filled == job.count && !stands_before(score, column, scores[held[filled - 1]], held[filled - 1])) continue;
        std::int64_t i = filled < job.count ? filled++ : filled - 1;
        for (; i > 0 && stands_before(score, column, scores[held[i - 1]], held[i - 1]); --i) held[i] = held[i - 1];
        held[i] = static_cast<std::int32_t>(column);
      }
      for (; filled < job.count; ++filled) held[filled] = -1;
    }
  }
}

// Second launch: one thread a column that a slice held. Its place in the answer is the number of those before it.
ZSL_DEVICE void merge_slices(const TopK& job, Place at, Place step) {
  const std::int64_t candidates = job.slices * job.count;
  for (std::int64_t row = at.row; row < job.rows; row += step.row) {
    const float* scores = job.scores + row * job.columns;
    const std::int32_t* held = job.held + row * candidates;
    for (std::int64_t own = at.column; own < candidates; own += step.column) {
      const std::int32_t column = held[own];
      if (column < 0) continue;
      std::int64_t before = 0;
      for (std::int64_t slice = 0; slice < job.slices && before < job.count; ++slice) {
        const std::int32_t* of_slice = held + slice * job.count;
        // Each slice's are in order: behind the first that does not stand before this one, none does.
        for (std::int64_t i = 0; i < job.count; ++i, ++before) {
          if (of_slice[i] < 0 || !stands_before(scores[of_slice[i]], of_slice[i], scores[column], column)) break;
        }
      }
      if (before < job.count) {
        job.out_columns[row * job.count + before] = column;
        job.out_scores[row * job.count + before] = scores[column];
      }
    }
  }
}

}  // namespace zsl::device
