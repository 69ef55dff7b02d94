// The pybind11 part of lstm_fused._C: what was built, what runs here, and why the rest does not.
// Includes no torch header: those that pin the ABI (tensors.h) and pybind11 stay in separate files.
#include <dlfcn.h>
#include <omp.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "dispatch/registry.h"
#include "dispatch/work.h"
#include "ops/direct.h"

namespace py = pybind11;

namespace {

py::object text_or_none(const char* text) { return text ? py::object(py::str(text)) : py::none(); }

py::list variants() {
  py::list rows;
  for (const lf::Row& row : lf::variant_table())
    rows.append(py::dict(py::arg("name") = row.name,
                         py::arg("device") = row.device == lf::Device::cpu ? "cpu" : "cuda",
                         py::arg("why_not") = text_or_none(lf::why_not_here(row))));
  return rows;
}

py::object why_not(int index, int dtype, bool tf32, int64_t T, int64_t B, int64_t H, int64_t P,
                   int64_t D) {
  const std::vector<lf::Row>& table = lf::variant_table();
  if (index < 0 || size_t(index) >= table.size())
    throw py::index_error("no variant " + std::to_string(index));
  const lf::Dims d{.T = T, .B = B, .H = H, .P = P, .D = D, .N = T * B};
  return text_or_none(lf::why_not(table[size_t(index)], lf::Cell::lstm, lf::DType(dtype), d, tf32));
}

py::object scan_work(const std::string& variant, bool backward, int dtype, bool tf32, int64_t B,
                     int64_t H, int D, int multiprocessors, size_t shared) {
  const auto work =
      lf::scan_work({variant, backward, lf::DType(dtype), tf32, B, H, D, multiprocessors, shared});
  if (!work) return py::none();
  py::list turns, rounds;
  for (const lf::ScanShare& share : work->shares) {
    turns.append(share.turns);
    rounds.append(share.rounds);
  }
  return py::make_tuple(work->launches, turns, rounds, work->multiply_adds, work->fragments,
                        work->streamed, work->streamed_by_all, work->product);
}

// What a shared object with variants of its own exports: lf_variants(&count) gives the first of
// them.
void add_variants(const std::string& path) {
  void* const library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (!library) throw py::import_error(dlerror());
  using Variants = const lf::Variant*(int* count);
  auto* const variants = reinterpret_cast<Variants*>(dlsym(library, "lf_variants"));
  if (!variants) throw py::import_error(path + " exports no lf_variants");
  int count = 0;
  const lf::Variant* const first = variants(&count);
  for (int k = 0; k < count; ++k) lf::add_variant(first[k]);
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = __VERSION__;
  info["openmp"] = _OPENMP;
  info["cuda"] =
      lf::variant_table()[0].variant ? text_or_none(lf::cuda_toolkit_version()) : py::none();
  return info;
}

py::dict omp_info() {
  Dl_info library{};
  dladdr(reinterpret_cast<void*>(&omp_get_max_threads), &library);
  int team = 1;
#pragma omp parallel
#pragma omp single
  team = omp_get_num_threads();
  return py::dict(py::arg("max_threads") = omp_get_max_threads(), py::arg("team") = team,
                  py::arg("library") = library.dli_fname ? library.dli_fname : "");
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Kernels of lstm_fused. Importing it registers torch.ops.lstm_fused.";
  m.def("variants", &variants, "The table of kernel variants, fastest first.");
  m.def("add_variants", &add_variants,
        "Add the variants of a shared object that was built with the same csrc/contract.",
        py::arg("path"));
  m.def("why_not", &why_not, "Why row `index` refuses a case, or None.", py::arg("index"),
        py::arg("dtype"), py::arg("tf32"), py::arg("T"), py::arg("B"), py::arg("H"), py::arg("P"),
        py::arg("D"));
  m.def("scan_work", &scan_work,
        "What a scan asks of a GPU (dispatch/work.h): launches, turns of each share, rounds of "
        "loads of a turn of each, multiply-adds of a turn, bytes of fragments, kept, streamed "
        "and streamed by all blocks, kind of product; or None.",
        py::arg("variant"), py::arg("backward"), py::arg("dtype"), py::arg("tf32"), py::arg("B"),
        py::arg("H"), py::arg("D"), py::arg("multiprocessors"), py::arg("shared"));
  m.def("build_info", &build_info, "Compiler, OpenMP and CUDA toolkit that built this module.");
  m.def("omp_info", &omp_info, "The OpenMP runtime that the CPU kernels use.");
  if (!lf::ops::add_direct_functions(m.ptr())) throw py::error_already_set();
}
