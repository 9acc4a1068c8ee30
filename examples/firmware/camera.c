/* A camera loop: the sensor fills one frame while the network looks at the other.
 *
 * Frames arrive line by line in an interrupt. When a frame is complete and the network has let go of
 * the other buffer, the two change places; if the network is still busy, the new frame is dropped and
 * its buffer filled again, so that the network always sees a whole and recent one.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "board.h"
#include "eye.h"
#include "sensor.h"

#define SIDE 24u
#define LINE_BYTES (3u * SIDE)
#define FRAMES 6u

static EYE_ALIGNED unsigned char arena[EYE_ARENA_BYTES];
static EYE_ALIGNED int8_t frames[2][EYE_INPUT_IMAGE_ELEMENTS];
static EYE_ALIGNED int8_t scores[EYE_OUTPUT_SCORES_ELEMENTS];
static eye_ctx eye;

/* Written by the interrupt, but for `ready`, which the network's side sets back to 0. */
static volatile uint32_t filling, line, frame, ready, ready_number, dropped;

/* A picture that moves: stands for the camera's line. */
static void expose(int8_t *to, uint32_t number, uint32_t y) {
    uint32_t x;
    for (x = 0; x < LINE_BYTES; ++x) {
        to[x] = (int8_t)(((number * 37u + y * 11u + x * (5u + number % 3u)) & 255u) - 128u);
    }
}

void sensor_deliver(void) {
    expose(frames[filling] + line * LINE_BYTES, frame, line);
    line = line + 1u;
    if (line < SIDE) {
        return;
    }
    line = 0;
    if (ready == 0u) {
        ready_number = frame;
        ready = 1u + filling; /* which buffer, plus one */
        filling = 1u - filling;
    } else {
        dropped = dropped + 1u;
    }
    frame = frame + 1u;
}

static uint32_t largest(const int8_t *values, uint32_t count) {
    uint32_t i, best = 0;
    for (i = 1; i < count; ++i) {
        best = values[i] > values[best] ? i : best;
    }
    return best;
}

int main(void) {
    uint32_t seen, best;
    if (eye_init(&eye, arena, sizeof arena) != EYE_OK) {
        return 1;
    }
    sensor_start(20000u);
    for (seen = 0; seen < FRAMES; ++seen) {
        eye_inputs in;
        eye_outputs out;
        eye_status status;
        while (ready == 0u) {
            sensor_wait();
        }
        in.image = frames[ready - 1u];
        out.scores = scores;
        status = eye_run(&eye, &in, &out);
        board_print("frame ");
        board_print_number(ready_number);
        ready = 0; /* the interrupt may have this buffer again */
        board_print(": ");
        if (status != EYE_OK) {
            board_print(eye_status_text(status));
            return 2;
        }
        board_print("class ");
        best = largest(scores, EYE_OUTPUT_SCORES_ELEMENTS);
        board_print_number(best);
        board_print(", score ");
        board_print_number((uint32_t)(scores[best] + 128));
        board_print("\n");
    }
    sensor_stop();
    board_print("camera: done, dropped ");
    board_print_number(dropped);
    board_print("\n");
    return 0;
}
