// What csrc/cpu/team.cpp wants of OpenMP where none is there.
#pragma once

inline int omp_get_thread_num() { return 0; }
inline int omp_get_num_threads() { return 1; }
