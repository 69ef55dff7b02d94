// THE table of cells: one include and one row (name in enum Cell, type) each.
#pragma once

#include "cell/lstm.h"

#define LF_FOR_EACH_CELL(ROW) ROW(lstm, LstmCell)
