// The best columns of each row of scores that lie on an NVIDIA card.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "card.h"

namespace zsl {

class CudaTopK {
 public:
  // `device` as the driver counts. Throws CudaError.
  explicit CudaTopK(int device);
  ~CudaTopK();
  CudaTopK(const CudaTopK&) = delete;
  CudaTopK& operator=(const CudaTopK&) = delete;

  // Memory that `launch` needs beside its results.
  static std::size_t scratch_bytes(std::size_t rows, std::size_t columns, std::size_t count);

  // float32 `scores` (rows, columns) -> int32 `out_columns` and float32 `out_scores` (rows, count): largest first, equal
  // ones in the order of columns, what is not a number last. All addresses are the card's. Queued on `stream` and not
  // waited for; nothing is reserved, so that a CUDA graph may capture it. Throws CudaError, and std::invalid_argument
  // unless 0 < count <= columns < 2^31 and rows > 0.
  void launch(std::uint64_t scores, std::size_t rows, std::size_t columns, std::size_t count, std::uint64_t scratch,
              std::uint64_t out_columns, std::uint64_t out_scores, std::uint64_t stream) const;

  // The same from and to ordinary memory: copies there and back, and waits.
  void best_copied(const float* scores, std::size_t rows, std::size_t columns, std::size_t count,
                   std::int32_t* out_columns, float* out_scores) const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace zsl
