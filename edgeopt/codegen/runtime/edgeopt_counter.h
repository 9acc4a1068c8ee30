/* The finest clock of a microcontroller: cycles of the core.
 *
 * The DWT's cycle counter where there is one and it counts; else SysTick, 24 bits of it; on RISC-V the
 * cycle counter. SysTick belongs to whoever calls edgeopt_counter_open: an operating system's tick is
 * gone then.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef EDGEOPT_COUNTER_H
#define EDGEOPT_COUNTER_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct {
    const char *name; /* "dwt", "systick", "cycle" */
    uint32_t span;    /* intervals of so many cycles and more cannot be told */
} edgeopt_counter;

/* Starts the counter. */
edgeopt_counter edgeopt_counter_open(void);
/* Now; counts up and wraps. */
uint32_t edgeopt_counter_now(const edgeopt_counter *counter);
/* Cycles between two readings, the reading itself not among them. */
uint32_t edgeopt_counter_between(const edgeopt_counter *counter, uint32_t begin, uint32_t end);

/* Executes so many instructions, give or take five: with an emulator's counter this tells what one
 * instruction is. */
#define EDGEOPT_COUNTER_LOOP 200000u
void edgeopt_counter_loop(void);

#ifdef __cplusplus
}
#endif
#endif
