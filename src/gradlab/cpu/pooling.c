/* The derivative of max pooling whose windows touch and do not overlap. */
#include "common.h"

typedef int whole_lanes __attribute__((vector_size(4 * LANES)));
typedef signed char choices __attribute__((vector_size(LANES), aligned(1)));

/*
 * A window's gradient goes to the pixel that it has chosen.
 *
 * gradient, chosen: [images, height, width, channels], of windows; chosen is which pixel of it, row after row.
 * image: [images, rows * height, columns * width, channels].
 */
void pooling_by_images(const float *gradient, const signed char *chosen, float *image, count images, count height,
                       count width, count channels, count rows, count columns) {
#pragma omp parallel for collapse(2) schedule(static)
    for (count n = 0; n < images; n++)
        for (count i = 0; i < height; i++)
            for (count row = 0; row < rows; row++) {
                const float *own = gradient + (n * height + i) * width * channels;
                const signed char *choice = chosen + (n * height + i) * width * channels;
                float *pixel = image + ((n * height + i) * rows + row) * columns * width * channels;
                const float *own_end = own + width * channels, *pixel_end = pixel + width * columns * channels;
                for (; own < own_end; own += channels, choice += channels)
                    for (count place = row * columns; place < (row + 1) * columns; place++, pixel += channels)
                        if (own + padded(channels) <= own_end && pixel + padded(channels) <= pixel_end)
                            /* Whole vectors, also where they reach into the next pixels, which come later. */
                            for (count c = 0; c < channels; c += LANES) {
                                whole_lanes is_chosen = __builtin_convertvector(*(const choices *)(choice + c), whole_lanes) == (int)place;
                                store(pixel + c, (lanes)((whole_lanes)load(own + c) & is_chosen));
                            }
                        else
                            for (count c = 0; c < channels; c++) pixel[c] = choice[c] == place ? own[c] : 0;
            }
}
