// The table of variants and the choice among them.
#pragma once

#include <vector>

#include "contract/variant.h"

namespace lf {

// An entry of the table. variant is null where the build left it out.
struct Row {
  const char* name;
  Device device;
  const Variant* variant;
};

// THE variant table, fastest first on each device, then those that were added.
const std::vector<Row>& variant_table();

// Adds a variant from outside of this library, which must live as long. It is never chosen, only
// forced. Not to be called while another thread uses the table.
void add_variant(const Variant& variant);

// Why a row cannot run at all here, or refuses this case; nullptr: it can.
const char* why_not_here(const Row& row);
const char* why_not(const Row& row, Cell cell, DType dtype, const Dims& d, bool tf32);

// The forced row (an index into the table), or the first that takes the case if forced is negative.
// nullptr, with the reason, if there is none.
const Variant* choose(Device device, Cell cell, DType dtype, const Dims& d, bool tf32, int forced,
                      const char** reason);

}  // namespace lf
