/*
 * Direct convolutions between few channels, with a stride of 1, and their derivatives; in groups too.
 *
 * One image and group at a time, all that is read often is in the cache, in an order that suits: an image with its border of zeros
 * as [height, channels, width], from which single numbers are spread over the lanes; kernels with what the lanes hold last,
 * padded with zeros to whole ones.
 */
#include "common.h"

#include <omp.h>

/* Of the functions here; where torch was built with another OpenMP, this one would take all cores. */
void use_threads(count threads) { omp_set_num_threads((int)threads); }

typedef struct {
    count images, groups, channels, height, width, outputs, kernel_height, kernel_width, border_height, border_width;
} Shape;

/* With the border, and of the outputs. */
#define SIZES \
    const count tall = s->height + 2 * s->border_height, wide = s->width + 2 * s->border_width; \
    const count high = tall - s->kernel_height + 1, broad = wide - s->kernel_width + 1; \
    const count pixel = s->groups * s->channels, output_pixel = s->groups * s->outputs; \
    (void)high, (void)broad, (void)output_pixel

/* One group of an image -> [tall, channels, wide]. */
static void bordered(const Shape *s, const float *image, float *to) {
    SIZES;
    memset(to, 0, tall * s->channels * wide * sizeof(float));
    to += s->border_height * s->channels * wide + s->border_width;
    for (count row = 0; row < s->height; row++)
        for (count channel = 0; channel < s->channels; channel++)
            for (count column = 0; column < s->width; column++)
                to[(row * s->channels + channel) * wide + column] = image[(row * s->width + column) * pixel + channel];
}

/* The first numbers of `value`. */
INLINE void store_some(float *to, lanes value, count numbers) {
    float all[LANES];
    store(all, value);
    for (count lane = 0; lane < numbers; lane++) to[lane] = all[lane];
}

/* ---- outputs: the lanes are output channels, the sums those of several pixels beside each other ---- */

INLINE void pixels_of(const int pixels, const int vectors, const Shape *s, const float *from, count wide,
                      const float *kernel, count kernel_step, float *to, count to_step, count left, int whole) {
    lanes sums[14];
    for (int i = 0; i < pixels * vectors; i++) sums[i] = (lanes){0};
    for (count line = 0; line < s->kernel_height * s->channels; line++)
        for (count column = 0; column < s->kernel_width; column++) {
            const float *numbers = from + line * wide + column;
            lanes weights[2];
            for (int v = 0; v < vectors; v++) weights[v] = load(kernel + v * LANES);
#pragma GCC unroll 14
            for (int p = 0; p < pixels; p++)
#pragma GCC unroll 2
                for (int v = 0; v < vectors; v++) sums[p * vectors + v] += numbers[p] * weights[v];
            kernel += kernel_step;
        }
#pragma GCC unroll 14
    for (int p = 0; p < pixels; p++)
        for (int v = 0; v < vectors; v++) {
            float *out = to + p * to_step + v * LANES;
            if (v < whole) store(out, sums[p * vectors + v]);
            else store_some(out, sums[p * vectors + v], left - v * LANES);
        }
}

static const int SIZES_OF_BLOCKS[2][6] = {{14, 10, 7, 4, 2, 1}, {6, 5, 4, 3, 2, 1}};

/* How many pixels to sum at once: as many as there are registers for, and few twice at the end of a row. */
static int block_of(count broad, int vectors) {
    int best = 1;
    count least = broad * 3;
    for (int i = 0; i < 6; i++) {
        int size = SIZES_OF_BLOCKS[vectors - 1][i];
        count cost = (broad + size - 1) / size * (size + 2);
        if (size <= broad && cost < least) best = size, least = cost;
    }
    return best;
}

/* packed: memory for groups * kernel height * channels * kernel width * padded(outputs) numbers. */
void direct_outputs(const Shape *s, const float *image, const float *kernel, float *packed, float *out) {
    SIZES;
    const count step = padded(s->outputs), lines = s->kernel_height * s->channels, each = lines * s->kernel_width * step;
    /* Whether what a vector has too much may be written to the next pixels, of the next row too: they come later. */
    const int reaches = s->groups == 1 && s->outputs <= 2 * LANES && broad * s->outputs >= LANES;
    memset(packed, 0, s->groups * each * sizeof(float));
    for (count o = 0; o < output_pixel; o++)
        for (count y = 0; y < s->kernel_height; y++)
            for (count x = 0; x < s->kernel_width; x++)
                for (count c = 0; c < s->channels; c++)
                    packed[o / s->outputs * each + ((y * s->channels + c) * s->kernel_width + x) * step + o % s->outputs] =
                        kernel[((o * s->kernel_height + y) * s->kernel_width + x) * s->channels + c];
#pragma omp parallel
    {
        float *own = malloc(tall * s->channels * wide * sizeof(float));
#pragma omp for collapse(2) schedule(static)
        for (count n = 0; n < s->images; n++)
            for (count group = 0; group < s->groups; group++) {
                bordered(s, image + n * s->height * s->width * pixel + group * s->channels, own);
                for (count first = 0; first < s->outputs; first += 2 * LANES) {
                    const count left = s->outputs - first;
                    const int two = left > LANES, block = block_of(broad, 1 + two);
                    const float *weights = packed + group * each + first;
                    for (count row = 0; row < high; row++)
                        for (count column = 0; column < broad; column += block) {
                            count start = column + block > broad ? broad - block : column;
                            const float *from = own + row * s->channels * wide + start;
                            float *to = out + ((n * high + row) * broad + start) * output_pixel + group * s->outputs + first;
                            int whole = left >= (1 + two) * LANES || (reaches && row < high - 1) ? 2 : left / LANES;
#define CASE(pixels, vectors) \
    case 2 * pixels + vectors - 1: \
        pixels_of(pixels, vectors, s, from, wide, weights, step, to, output_pixel, left, whole); \
        break;
                            switch (2 * block + two) {
                                CASE(14, 1) CASE(10, 1) CASE(7, 1) CASE(4, 1) CASE(2, 1) CASE(1, 1)
                                CASE(6, 2) CASE(5, 2) CASE(4, 2) CASE(3, 2) CASE(2, 2) CASE(1, 2)
                            }
                        }
                }
            }
        free(own);
    }
}

/* ---- the gradient by kernels: the lanes are output channels, the sums over pixels those of several places of the kernel ---- */

INLINE void places_of(const int lines, const int places, const int vectors, const float *line, count next_line,
                      count line_step, const float *gradient, count gradient_step, count high, count broad, float *to,
                      count next_to, count to_step) {
    lanes sums[10];
    for (int i = 0; i < lines * places * vectors; i++) sums[i] = (lanes){0};
    for (count row = 0; row < high; row++, line += line_step)
        for (count column = 0; column < broad; column++, gradient += gradient_step) {
            lanes given[2];
            for (int v = 0; v < vectors; v++) given[v] = load(gradient + v * LANES);
#pragma GCC unroll 2
            for (int l = 0; l < lines; l++)
#pragma GCC unroll 5
                for (int p = 0; p < places; p++)
#pragma GCC unroll 2
                    for (int v = 0; v < vectors; v++)
                        sums[(l * places + p) * vectors + v] += line[l * next_line + column + p] * given[v];
        }
    for (int l = 0; l < lines; l++)
        for (int p = 0; p < places; p++)
            for (int v = 0; v < vectors; v++) {
                float *out = to + l * next_to + p * to_step + v * LANES;
                store(out, load(out) + sums[(l * places + p) * vectors + v]);
            }
}

/*
 * Of kernels 5 wide. partial: memory for chunks times that of `packed` above. Images are summed in chunks, and these in their
 * order, so that the result doesn't depend on the number of threads.
 */
void direct_by_kernels(const Shape *s, const float *image, const float *gradient, float *partial, float *kernel, count chunks) {
    SIZES;
    const count step = padded(s->outputs), lines = s->kernel_height * s->channels, places = s->kernel_width * step;
    const count each = lines * places;
    memset(partial, 0, chunks * s->groups * each * sizeof(float));
#pragma omp parallel
    {
        float *own = malloc(tall * s->channels * wide * sizeof(float)), *given = calloc(high * broad * step, sizeof(float));
#pragma omp for collapse(2) schedule(static)
        for (count chunk = 0; chunk < chunks; chunk++)
            for (count group = 0; group < s->groups; group++)
                for (count n = chunk * s->images / chunks; n < (chunk + 1) * s->images / chunks; n++) {
                    bordered(s, image + n * s->height * s->width * pixel + group * s->channels, own);
                    const float *from = gradient + n * high * broad * output_pixel + group * s->outputs;
                    for (count i = 0; i < high * broad; i++)
                        for (count o = 0; o < s->outputs; o++) given[i * step + o] = from[i * output_pixel + o];
                    for (count first = 0; first < s->outputs; first += 2 * LANES) {
                        const int two_vectors = s->outputs - first > LANES;
                        for (count line = 0; line < lines;) {
                            const int two_lines = !two_vectors && line + 1 < lines;
                            float *to = partial + (chunk * s->groups + group) * each + line * places + first;
#define PLACES(lines, vectors) \
    places_of(lines, 5, vectors, own + line * wide, wide, s->channels * wide, given + first, step, high, broad, to, places, step)
                            if (two_vectors) PLACES(1, 2);
                            else if (two_lines) PLACES(2, 1);
                            else PLACES(1, 1);
                            line += 1 + two_lines;
                        }
                    }
                }
        free(own);
        free(given);
    }
    for (count o = 0; o < output_pixel; o++)
        for (count y = 0; y < s->kernel_height; y++)
            for (count x = 0; x < s->kernel_width; x++)
                for (count c = 0; c < s->channels; c++) {
                    const float *from = partial + o / s->outputs * each + (y * s->channels + c) * places + x * step + o % s->outputs;
                    float sum = 0;
                    for (count chunk = 0; chunk < chunks; chunk++) sum += from[chunk * s->groups * each];
                    kernel[((o * s->kernel_height + y) * s->kernel_width + x) * s->channels + c] = sum;
                }
}

/* ---- the gradient by images: the lanes are a row of a kernel, all of its channels, the sums those of pixels below each other ---- */

INLINE void rows_of(const int pixels, const int vectors, count outputs, const float *gradient, count gradient_step,
                    const float *kernel, count kernel_step, float *to, count to_step) {
    lanes sums[12];
    for (int i = 0; i < pixels * vectors; i++) sums[i] = (lanes){0};
    for (count output = 0; output < outputs; output++, kernel += kernel_step) {
        lanes weights[4];
        for (int v = 0; v < vectors; v++) weights[v] = load(kernel + v * LANES);
#pragma GCC unroll 3
        for (int p = 0; p < pixels; p++)
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++) sums[p * vectors + v] += gradient[p * gradient_step + output] * weights[v];
    }
#pragma GCC unroll 3
    for (int p = 0; p < pixels; p++)
        for (int v = 0; v < vectors; v++) {
            float *out = to + p * to_step + v * LANES;
            store(out, load(out) + sums[p * vectors + v]);
        }
}

/* packed: memory for groups * kernel height * outputs * padded(kernel width * channels) numbers. */
void direct_by_images(const Shape *s, const float *gradient, const float *kernel, float *packed, float *image) {
    SIZES;
    const count row_of_kernel = s->kernel_width * s->channels, step = padded(row_of_kernel);
    const count each = s->kernel_height * s->outputs * step, line = wide * s->channels + LANES;
    memset(packed, 0, s->groups * each * sizeof(float));
    for (count o = 0; o < output_pixel; o++)
        for (count y = 0; y < s->kernel_height; y++)
            memcpy(packed + o / s->outputs * each + (y * s->outputs + o % s->outputs) * step,
                   kernel + (o * s->kernel_height + y) * row_of_kernel, row_of_kernel * sizeof(float));
#pragma omp parallel
    {
        float *own = malloc(tall * line * sizeof(float));
#pragma omp for collapse(2) schedule(static)
        for (count n = 0; n < s->images; n++)
            for (count group = 0; group < s->groups; group++) {
                memset(own, 0, tall * line * sizeof(float));
                const float *given = gradient + n * high * broad * output_pixel + group * s->outputs;
                /* Below each other: what is added for one is not what is read for the next. */
                for (count row = 0, rows; row < high; row += rows) {
                    rows = high - row >= 3 && high - row != 4 ? 3 : high - row >= 2 ? 2 : 1;
                    for (count y = 0; y < s->kernel_height; y++)
                        for (count column = 0; column < broad; column++)
                            for (count first = 0; first < step; first += 4 * LANES) {
                                const count vectors = step - first < 4 * LANES ? (step - first) / LANES : 4;
                                const float *from = given + (row * broad + column) * output_pixel;
                                const float *weights = packed + group * each + y * s->outputs * step + first;
                                float *to = own + (row + y) * line + column * s->channels + first;
#define ROWS(pixels, vectors) \
    case 5 * pixels + vectors: \
        rows_of(pixels, vectors, s->outputs, from, broad * output_pixel, weights, step, to, line); \
        break;
                                switch (5 * rows + vectors) {
                                    ROWS(3, 4) ROWS(3, 3) ROWS(3, 2) ROWS(3, 1)
                                    ROWS(2, 4) ROWS(2, 3) ROWS(2, 2) ROWS(2, 1)
                                    ROWS(1, 4) ROWS(1, 3) ROWS(1, 2) ROWS(1, 1)
                                }
                            }
                }
                float *to = image + n * s->height * s->width * pixel + group * s->channels;
                own += s->border_height * line + s->border_width * s->channels;
                for (count row = 0; row < s->height; row++)
                    for (count column = 0; column < s->width; column++)
                        for (count channel = 0; channel < s->channels; channel++)
                            to[(row * s->width + column) * pixel + channel] = own[row * line + column * s->channels + channel];
                own -= s->border_height * line + s->border_width * s->channels;
            }
        free(own);
    }
}
