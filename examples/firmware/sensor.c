/* See sensor.h: SysTick of a Cortex-M.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "sensor.h"

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define SYSTICK_CONTROL REGISTER(0xE000E010u)
#define SYSTICK_RELOAD REGISTER(0xE000E014u)
#define SYSTICK_VALUE REGISTER(0xE000E018u)

void board_tick(void);
void board_tick(void) { sensor_deliver(); }

void sensor_start(uint32_t cycles) {
    SYSTICK_RELOAD = cycles - 1u;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 7u; /* the core's clock, with interrupt */
}

void sensor_stop(void) { SYSTICK_CONTROL = 0; }

void sensor_wait(void) { __asm__ volatile("wfi" ::: "memory"); }
