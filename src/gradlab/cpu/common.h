/* What the convolutions share. Images are [images, height, width, channels], kernels [outputs, height, width, channels]. */
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

typedef ptrdiff_t count;

enum { LANES = 8 };
typedef float lanes __attribute__((vector_size(4 * LANES)));
typedef float unaligned_lanes __attribute__((vector_size(4 * LANES), aligned(4)));

#define INLINE static inline __attribute__((always_inline))

INLINE lanes load(const float *from) { return *(const unaligned_lanes *)from; }
INLINE void store(float *to, lanes value) { *(unaligned_lanes *)to = value; }

/* Up to a multiple of LANES. */
INLINE count padded(count numbers) { return (numbers + LANES - 1) / LANES * LANES; }
