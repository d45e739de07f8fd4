/*
 * The transforms of Winograd's convolution F(4x4, 3x3), and what takes gradients back through them.
 *
 * A tile is 4x4 pixels of an output, and the 6x6 of the input that it depends on: its own and one more on every side, zeros
 * outside of the image. Transformed, a tile is 36 numbers for each channel, and those of all tiles are [36, tiles, channels];
 * `position` is how many floats lie between two of the 36. Channels are a multiple of LANES.
 */
#include "common.h"

/* The three matrices of Lavin and Gray, and their transposes: of numbers `step` apart. */

INLINE void input(const lanes *from, int step, lanes *to) {
    lanes d0 = from[0], d1 = from[step], d2 = from[2 * step], d3 = from[3 * step], d4 = from[4 * step], d5 = from[5 * step];
    lanes even = d4 - 4 * d2, odd = d3 - 4 * d1, even2 = d4 - d2, odd2 = 2 * (d3 - d1);
    to[0] = 4 * d0 - 5 * d2 + d4;
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = even2 + odd2;
    to[4] = even2 - odd2;
    to[5] = 4 * d1 - 5 * d3 + d5;
}

INLINE void input_transposed(const lanes *from, int step, lanes *to) {
    lanes v0 = from[0], v1 = from[step], v2 = from[2 * step], v3 = from[3 * step], v4 = from[4 * step], v5 = from[5 * step];
    lanes sum = v1 + v2, difference = v1 - v2, sum2 = v3 + v4, difference2 = v3 - v4;
    to[0] = 4 * v0;
    to[1] = 4 * (v5 - difference) - 2 * difference2;
    to[2] = -5 * v0 - 4 * sum - sum2;
    to[3] = difference + 2 * difference2 - 5 * v5;
    to[4] = v0 + sum + sum2;
    to[5] = v5;
}

INLINE void output(const lanes *from, int step, lanes *to) {
    lanes m0 = from[0], m1 = from[step], m2 = from[2 * step], m3 = from[3 * step], m4 = from[4 * step], m5 = from[5 * step];
    lanes sum = m1 + m2, difference = m1 - m2, sum2 = m3 + m4, difference2 = m3 - m4;
    to[0] = m0 + sum + sum2;
    to[1] = difference + 2 * difference2;
    to[2] = sum + 4 * sum2;
    to[3] = difference + 8 * difference2 + m5;
}

INLINE void output_transposed(const lanes *from, int step, lanes *to) {
    lanes y0 = from[0], y1 = from[step], y2 = from[2 * step], y3 = from[3 * step];
    lanes even = y0 + y2, odd = y1 + y3, even2 = y0 + 4 * y2, odd2 = 2 * y1 + 8 * y3;
    to[0] = y0;
    to[1] = even + odd;
    to[2] = even - odd;
    to[3] = even2 + odd2;
    to[4] = even2 - odd2;
    to[5] = y3;
}

INLINE void kernel(const lanes *from, int step, lanes *to) {
    lanes g0 = from[0], g1 = from[step], g2 = from[2 * step];
    lanes even = g0 + g2, even2 = g0 * (1 / 24.0f) + g2 * (1 / 6.0f), odd2 = g1 * (1 / 12.0f);
    to[0] = g0 * (1 / 4.0f);
    to[1] = (even + g1) * (-1 / 6.0f);
    to[2] = (even - g1) * (-1 / 6.0f);
    to[3] = even2 + odd2;
    to[4] = even2 - odd2;
    to[5] = g2;
}

INLINE void kernel_transposed(const lanes *from, int step, lanes *to) {
    lanes u0 = from[0], u1 = from[step], u2 = from[2 * step], u3 = from[3 * step], u4 = from[4 * step], u5 = from[5 * step];
    lanes sum = (u1 + u2) * (1 / 6.0f), sum2 = u3 + u4;
    to[0] = u0 * (1 / 4.0f) - sum + sum2 * (1 / 24.0f);
    to[1] = (u2 - u1) * (1 / 6.0f) + (u3 - u4) * (1 / 12.0f);
    to[2] = sum2 * (1 / 6.0f) - sum + u5;
}

typedef void transform(const lanes *from, int step, lanes *to);

/* The transform of rows and of columns: `from` is [size, size], `to` [result, result]. */
INLINE void both(transform each, int size, int result, const lanes *from, lanes *to) {
    lanes between[36], line[6];
    for (int column = 0; column < size; column++) {
        each(from + column, size, line);
        for (int row = 0; row < result; row++) between[row * size + column] = line[row];
    }
    for (int row = 0; row < result; row++) each(between + row * size, 1, to + row * result);
}

/* The tile at (down, across), whose first pixel has this row and column; pixels outside are zeros and are not written. */
#define INSIDE(row, column) ((size_t)(row) < (size_t)height && (size_t)(column) < (size_t)width)
#define DOWN ((height + 3) / 4)
#define ACROSS ((width + 3) / 4)

/* `size` x `size` pixels of each tile, which begin `before` it -> its 36 numbers. */
INLINE void numbers_of_pixels(transform each, int size, int before, const float *image, float *number, count images,
                              count height, count width, count channels, count position) {
#pragma omp parallel for collapse(3) schedule(static)
    for (count n = 0; n < images; n++)
        for (count down = 0; down < DOWN; down++)
            for (count across = 0; across < ACROSS; across++) {
                const float *from = image + n * height * width * channels;
                float *to = number + ((n * DOWN + down) * ACROSS + across) * channels;
                for (count channel = 0; channel < channels; channel += LANES) {
                    lanes pixels[36], transformed[36];
                    for (count i = 0; i < size * size; i++) {
                        count row = 4 * down - before + i / size, column = 4 * across - before + i % size;
                        pixels[i] = INSIDE(row, column) ? load(from + (row * width + column) * channels + channel) : (lanes){0};
                    }
                    both(each, size, 6, pixels, transformed);
                    for (count i = 0; i < 36; i++) store(to + i * position + channel, transformed[i]);
                }
            }
}

/* Pixels -> tiles. */
void winograd_tiles_of_images(const float *image, float *tile, count images, count height, count width, count channels, count position) {
    numbers_of_pixels(input, 6, 1, image, tile, images, height, width, channels, position);
}

/* The gradient by tiles -> that by pixels, which is the sum over the tiles that a pixel is part of. */
void winograd_images_of_tiles(float *image, const float *tile, count images, count height, count width, count channels, count position) {
#pragma omp parallel for schedule(static)
    for (count n = 0; n < images; n++) {
        float *to = image + n * height * width * channels;
        memset(to, 0, height * width * channels * sizeof(float));
        for (count down = 0; down < DOWN; down++)
            for (count across = 0; across < ACROSS; across++) {
                const float *from = tile + ((n * DOWN + down) * ACROSS + across) * channels;
                for (count channel = 0; channel < channels; channel += LANES) {
                    lanes transformed[36], pixels[36];
                    for (count i = 0; i < 36; i++) transformed[i] = load(from + i * position + channel);
                    both(input_transposed, 6, 6, transformed, pixels);
                    for (count i = 0; i < 36; i++) {
                        count row = 4 * down - 1 + i / 6, column = 4 * across - 1 + i % 6;
                        if (!INSIDE(row, column)) continue;
                        float *pixel = to + (row * width + column) * channels + channel;
                        store(pixel, load(pixel) + pixels[i]);
                    }
                }
            }
    }
}

/* Products -> outputs. */
void winograd_outputs_of_products(float *image, const float *product, count images, count height, count width, count channels, count position) {
#pragma omp parallel for collapse(3) schedule(static)
    for (count n = 0; n < images; n++)
        for (count down = 0; down < DOWN; down++)
            for (count across = 0; across < ACROSS; across++) {
                const float *from = product + ((n * DOWN + down) * ACROSS + across) * channels;
                float *to = image + n * height * width * channels;
                for (count channel = 0; channel < channels; channel += LANES) {
                    lanes transformed[36], pixels[16];
                    for (count i = 0; i < 36; i++) transformed[i] = load(from + i * position + channel);
                    both(output, 6, 4, transformed, pixels);
                    for (count i = 0; i < 16; i++) {
                        count row = 4 * down + i / 4, column = 4 * across + i % 4;
                        if (INSIDE(row, column)) store(to + (row * width + column) * channels + channel, pixels[i]);
                    }
                }
            }
}

/* The gradient by outputs -> that by products. */
void winograd_products_of_outputs(const float *image, float *product, count images, count height, count width, count channels, count position) {
    numbers_of_pixels(output_transposed, 4, 0, image, product, images, height, width, channels, position);
}

/* Kernels [outputs, 3, 3, channels] -> [36, outputs, channels]. */
void winograd_transformed_kernels(const float *weight, float *transformed, count outputs, count channels) {
#pragma omp parallel for schedule(static)
    for (count k = 0; k < outputs; k++)
        for (count channel = 0; channel < channels; channel += LANES) {
            lanes from[9], to[36];
            for (count i = 0; i < 9; i++) from[i] = load(weight + (k * 9 + i) * channels + channel);
            both(kernel, 3, 6, from, to);
            for (count i = 0; i < 36; i++) store(transformed + (i * outputs + k) * channels + channel, to[i]);
        }
}

/* The gradient by transformed kernels -> that by kernels. */
void winograd_kernels_of_transformed(float *weight, const float *transformed, count outputs, count channels) {
#pragma omp parallel for schedule(static)
    for (count k = 0; k < outputs; k++)
        for (count channel = 0; channel < channels; channel += LANES) {
            lanes from[36], to[9];
            for (count i = 0; i < 36; i++) from[i] = load(transformed + (i * outputs + k) * channels + channel);
            both(kernel_transposed, 6, 3, from, to);
            for (count i = 0; i < 9; i++) store(weight + (k * 9 + i) * channels + channel, to[i]);
        }
}
