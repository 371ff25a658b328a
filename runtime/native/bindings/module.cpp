// The Python module zsl_runtime._native: checks types, owns results, releases the GIL; no arithmetic here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cuda_resize.h"
#include "cuda_topk.h"
#include "zsl/resize.h"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using Pixels = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Squares = nb::ndarray<std::uint8_t, nb::shape<-1, -1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Scores = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using BestColumns = nb::ndarray<std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using BestScores = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int32_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Taps = nb::ndarray<const std::int32_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Result = nb::ndarray<nb::numpy, std::uint8_t, nb::shape<-1, -1, 3>>;
using Coefficients = std::tuple<nb::ndarray<nb::numpy, std::int32_t, nb::ndim<1>>,
                                nb::ndarray<nb::numpy, std::int32_t, nb::ndim<2>>>;

zsl::Axis to_axis(const Numbers& first, const Taps& taps) {
  if (first.shape(0) != taps.shape(0)) {
    throw std::invalid_argument("`first` and `taps` have different lengths");
  }
  return {first.data(), taps.data(), taps.shape(0), taps.shape(1)};
}

std::vector<zsl::Picture> to_pictures(const std::vector<Pixels>& arrays) {
  std::vector<zsl::Picture> pictures;
  pictures.reserve(arrays.size());
  for (const Pixels& array : arrays) {
    pictures.push_back({array.data(), array.shape(0), array.shape(1)});
  }
  return pictures;
}

// Side of the squares. Throws std::invalid_argument unless there are as many as pictures.
std::size_t side_of(const Squares& out, std::size_t pictures) {
  if (out.shape(0) != pictures || out.shape(1) != out.shape(2)) {
    throw std::invalid_argument("`out` is not one square for each of the " + std::to_string(pictures) + " pictures");
  }
  return out.shape(1);
}

template <class T>
nb::capsule owner_of(T* data) {
  return nb::capsule(data, [](void* pointer) noexcept { delete[] static_cast<T*>(pointer); });
}

Result resize_crop(const Pixels& pixels, const Numbers& column_first, const Taps& column_taps,
                   const Numbers& row_first, const Taps& row_taps, const std::string& kernels) {
  const zsl::Axis columns = to_axis(column_first, column_taps);
  const zsl::Axis rows = to_axis(row_first, row_taps);
  const zsl::Kernels& chosen = zsl::kernels_named(kernels);
  auto* data = new std::uint8_t[rows.count * columns.count * 3];
  const nb::capsule owner = owner_of(data);
  {
    nb::gil_scoped_release release;
    zsl::Scratch scratch;
    zsl::resize_crop({pixels.data(), pixels.shape(0), pixels.shape(1)}, columns, rows, chosen, scratch, data);
  }
  return Result(data, {rows.count, columns.count, 3}, owner);
}

void resize_crop_batch(const std::vector<Pixels>& pictures, std::size_t resize, const Squares& out,
                       std::size_t threads, const std::string& kernels) {
  const std::size_t crop = side_of(out, pictures.size());
  const std::vector<zsl::Picture> given = to_pictures(pictures);
  const zsl::Kernels& chosen = zsl::kernels_named(kernels);
  nb::gil_scoped_release release;
  zsl::resize_crop_batch(given, resize, crop, threads, chosen, out.data());
}

Coefficients coefficients(std::int64_t source, std::int64_t target, std::int64_t start, std::int64_t count) {
  if (source < 1 || target < 1 || start < 0 || count < 1 || count > target - start) {
    throw std::invalid_argument("outputs outside the resized axis");
  }
  const zsl::Resampling axis = zsl::coefficients(source, target, start, count);
  auto* first = new std::int32_t[axis.first.size()];
  const nb::capsule first_owner = owner_of(first);
  auto* taps = new std::int32_t[axis.taps.size()];
  const nb::capsule taps_owner = owner_of(taps);
  std::copy(axis.first.begin(), axis.first.end(), first);
  std::copy(axis.taps.begin(), axis.taps.end(), taps);
  return {{first, {axis.first.size()}, first_owner}, {taps, {axis.first.size(), axis.width}, taps_owner}};
}

std::vector<std::string> kernel_names() {
  std::vector<std::string> names;
  for (const zsl::Kernels* kernels : zsl::usable_kernels()) {
    names.emplace_back(kernels->name);
  }
  return names;
}

void cuda_batch(zsl::CudaResizer& resizer, const std::vector<Pixels>& pictures, std::size_t resize,
                const Squares& out) {
  const std::size_t crop = side_of(out, pictures.size());
  const std::vector<zsl::Picture> given = to_pictures(pictures);
  nb::gil_scoped_release release;
  resizer.resize_crop_batch_copied(given, resize, crop, out.data());
}

void cuda_pointers(zsl::CudaResizer& resizer,
                   const std::vector<std::tuple<std::uint64_t, std::size_t, std::size_t>>& pictures,
                   std::size_t resize, std::size_t crop, std::uint64_t out, std::uint64_t stream) {
  std::vector<zsl::Picture> given;
  given.reserve(pictures.size());
  for (const auto& [pointer, height, width] : pictures) {
    given.push_back({reinterpret_cast<const std::uint8_t*>(pointer), height, width});
  }
  nb::gil_scoped_release release;
  resizer.resize_crop_batch(given, resize, crop, out, stream);
}

void topk_launch(const zsl::CudaTopK& topk, std::uint64_t scores, std::size_t rows, std::size_t columns,
                 std::size_t count, std::uint64_t scratch, std::uint64_t out_columns, std::uint64_t out_scores,
                 std::uint64_t stream) {
  nb::gil_scoped_release release;
  topk.launch(scores, rows, columns, count, scratch, out_columns, out_scores, stream);
}

void topk_copied(const zsl::CudaTopK& topk, const Scores& scores, const BestColumns& out_columns,
                 const BestScores& out_scores) {
  const std::size_t rows = scores.shape(0), columns = scores.shape(1), count = out_columns.shape(1);
  if (rows == 0 || count == 0 || count > columns || out_columns.shape(0) != rows || out_scores.shape(0) != rows ||
      out_scores.shape(1) != count) {
    throw std::invalid_argument("results are not (rows, count) with 0 < count <= columns");
  }
  nb::gil_scoped_release release;
  topk.best_copied(scores.data(), rows, columns, count, out_columns.data(), out_scores.data());
}

}  // namespace

NB_MODULE(_native, module) {
  module.doc() = "Compiled core of zsl_runtime: fixed-point resize and crop. Used through zsl_runtime.pixels.pixels.";
  module.def("kernels", &kernel_names, "Names of the kernels that this CPU can run, fastest first.");
  module.def("coefficients", &coefficients, "source"_a, "target"_a, "start"_a, "count"_a,
             "What zsl_runtime.pixels.pixels.coefficients computes, bit for bit.");
  module.def("resize_crop", &resize_crop, "pixels"_a.noconvert(), "column_first"_a.noconvert(),
             "column_taps"_a.noconvert(), "row_first"_a.noconvert(), "row_taps"_a.noconvert(), "kernels"_a = "",
             "Resample columns, then rows, of uint8 (H, W, 3) with int32 taps of 22 fractional bits.\n\n"
             "column_first (P,), column_taps (P, T), row_first (Q,), row_taps (Q, U); returns uint8 (Q, P, 3).\n"
             "Raises TypeError for other dtypes or layouts, ValueError for a window outside the picture.");
  module.def("resize_crop_batch", &resize_crop_batch, "pictures"_a.noconvert(), "resize"_a, "out"_a.noconvert(),
             "threads"_a = 1, "kernels"_a = "",
             "Resize and crop a list of uint8 (H, W, 3) into `out` (N, P, P, 3), which must not overlap them.\n\n"
             "Raises TypeError for other dtypes or layouts, ValueError for sizes that do not fit.");

  nb::exception<zsl::CudaError>(module, "CudaError", PyExc_RuntimeError);
  module.def("has_cuda_kernels", [] { return !zsl::kernel_image().empty(); },
             "Whether this build holds kernels for NVIDIA cards.");
  nb::class_<zsl::CudaResizer>(module, "CudaResizer",
                               "`resize_crop_batch` on an NVIDIA card, numbered as the driver does. Raises CudaError.")
      .def(nb::init<int>(), "device"_a)
      .def("resize_crop_batch", &cuda_batch, "pictures"_a.noconvert(), "resize"_a, "out"_a.noconvert(),
           "From and to ordinary memory: copies there and back, and waits.")
      .def("resize_crop_pointers", &cuda_pointers, "pictures"_a, "resize"_a, "crop"_a, "out"_a, "stream"_a = 0,
           "Pictures (address, height, width) and `out` are on the card; queued on `stream`, not waited for.");

  nb::class_<zsl::CudaTopK>(module, "CudaTopK",
                            "The best columns of each row of scores on an NVIDIA card, numbered as the driver does.\n\n"
                            "Largest first, equal ones in the order of columns. Raises CudaError.")
      .def(nb::init<int>(), "device"_a)
      .def_static("scratch_bytes", &zsl::CudaTopK::scratch_bytes, "rows"_a, "columns"_a, "count"_a,
                  "Memory that `launch` needs beside its results.")
      .def("launch", &topk_launch, "scores"_a, "rows"_a, "columns"_a, "count"_a, "scratch"_a, "out_columns"_a,
           "out_scores"_a, "stream"_a, "Addresses are the card's; queued on `stream`, not waited for.")
      .def("best_copied", &topk_copied, "scores"_a.noconvert(), "out_columns"_a.noconvert(),
           "out_scores"_a.noconvert(), "From and to ordinary memory: copies there and back, and waits.");
}
