/* An audio loop: samples arrive in halves of a buffer, features slide through a window.
 *
 * While the interrupt fills one half, features of the other are computed. The network sees a window of
 * 49 such frames and runs whenever another seven have come: the window overlaps with the one before.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "board.h"
#include "ear.h"
#include "sensor.h"

#include <string.h>

#define FEATURES 10u
#define WINDOW 49u
#define HOP 7u
#define BLOCK 32u /* samples a feature is made of */
#define HALF (FEATURES * BLOCK)
#define INFERENCES 4u

static EAR_ALIGNED unsigned char arena[EAR_ARENA_BYTES];
static EAR_ALIGNED int8_t window[WINDOW * FEATURES];
static EAR_ALIGNED int8_t scores[EAR_OUTPUT_SCORES_ELEMENTS];
static ear_ctx ear;

static int16_t halves[2][HALF];
/* Written by the interrupt; `taken` counts the halves that were made into features. */
static volatile uint32_t delivered;
static uint32_t taken;

/* A sound that changes: stands for what the codec's DMA writes into half of its buffer. */
static int16_t sound(uint32_t number, uint32_t i) {
    uint32_t phase = (number * HALF + i) * (40u + number % 7u * 9u);
    int32_t saw = (int32_t)(phase & 4095u) - 2048;
    return (int16_t)(saw * (int32_t)(1u + number % 5u));
}

void sensor_deliver(void) {
    uint32_t number = delivered, i;
    for (i = 0; i < HALF; ++i) {
        halves[number & 1u][i] = sound(number, i);
    }
    delivered = number + 1u;
}

/* The loudness of a block, in steps of an eighth of a doubling: stands for your own front end. */
static int8_t loudness(const int16_t *samples) {
    uint32_t energy = 1, bits = 0, i;
    for (i = 0; i < BLOCK; ++i) {
        int32_t value = samples[i] / 8;
        energy += (uint32_t)(value * value) / BLOCK;
    }
    while (energy >> (bits + 1u) != 0u) {
        ++bits;
    }
    bits = 8u * bits + ((energy << 3 >> bits) & 7u);
    return (int8_t)((int32_t)bits - 100);
}

static void add_frame(const int16_t *samples) {
    uint32_t i;
    memmove(window, window + FEATURES, sizeof window - FEATURES);
    for (i = 0; i < FEATURES; ++i) {
        window[(WINDOW - 1u) * FEATURES + i] = loudness(samples + i * BLOCK);
    }
}

static uint32_t largest(const int8_t *values, uint32_t count) {
    uint32_t i, best = 0;
    for (i = 1; i < count; ++i) {
        best = values[i] > values[best] ? i : best;
    }
    return best;
}

int main(void) {
    ear_inputs in;
    ear_outputs out;
    uint32_t done = 0, lost = 0, best;
    if (ear_init(&ear, arena, sizeof arena) != EAR_OK) {
        return 1;
    }
    in.spectrum = window;
    out.scores = scores;
    sensor_start(200000u);
    while (done < INFERENCES) {
        while (taken == delivered) {
            sensor_wait();
        }
        if (delivered - taken > 1u) { /* the half was overwritten before it was read */
            lost += delivered - 1u - taken;
            taken = delivered - 1u;
        }
        add_frame(halves[taken & 1u]);
        taken = taken + 1u;
        if (taken < WINDOW || (taken - WINDOW) % HOP != 0u) {
            continue;
        }
        if (ear_run(&ear, &in, &out) != EAR_OK) {
            board_print("failed\n");
            return 2;
        }
        board_print("frame ");
        board_print_number(taken - 1u);
        board_print(": class ");
        best = largest(scores, EAR_OUTPUT_SCORES_ELEMENTS);
        board_print_number(best);
        board_print(", score ");
        board_print_number((uint32_t)(scores[best] + 128));
        board_print("\n");
        ++done;
    }
    sensor_stop();
    board_print("audio: done, lost ");
    board_print_number(lost);
    board_print("\n");
    return 0;
}
