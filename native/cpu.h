/* Which instructions there are, and threads. */
#pragma once
#include "linear.h"

/* The highest level that this processor has. */
enum level cpu_level(void);

/* Calls work(data, part, parts) for each part, each on a thread of its own where torch's OpenMP is found. */
void in_parallel(void (*work)(void *data, int part, int parts), void *data, int parts);
