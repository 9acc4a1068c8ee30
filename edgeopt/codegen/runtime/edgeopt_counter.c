/* See edgeopt_counter.h.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#include "edgeopt_counter.h"

#if defined(__riscv)

/* Chips without the standard counter name theirs: the ESP32-C3's is 0x7e2. */
#ifndef EDGEOPT_CYCLE_CSR
#define EDGEOPT_CYCLE_CSR 0xb00 /* mcycle */
#endif
#define TEXT_OF(macro) #macro
#define TEXT(macro) TEXT_OF(macro)

edgeopt_counter edgeopt_counter_open(void) {
    edgeopt_counter counter;
    counter.name = "cycle";
    counter.span = UINT32_MAX;
    return counter;
}

uint32_t edgeopt_counter_now(const edgeopt_counter *counter) {
    uint32_t value;
    (void)counter;
    __asm__ volatile(".option push\n\t.option arch, +zicsr\n\tcsrr %0, " TEXT(EDGEOPT_CYCLE_CSR) "\n\t.option pop"
                     : "=r"(value));
    return value;
}

void edgeopt_counter_loop(void) {
    uint32_t rounds = EDGEOPT_COUNTER_LOOP / 2u;
    __asm__ volatile("1:\n\taddi %0, %0, -1\n\tbnez %0, 1b" : "+r"(rounds));
}

#else

#define REGISTER(address) (*(volatile uint32_t *)(uintptr_t)(address))
#define SYSTICK_CONTROL REGISTER(0xE000E010u)
#define SYSTICK_RELOAD REGISTER(0xE000E014u)
#define SYSTICK_VALUE REGISTER(0xE000E018u)
#define DEBUG_MONITOR REGISTER(0xE000EDFCu)
#define DWT_CONTROL REGISTER(0xE0001000u)
#define DWT_CYCLES REGISTER(0xE0001004u)

#if !defined(__ARM_ARCH_6M__) && !defined(__ARM_ARCH_8M_BASE__)
static int dwt_counts(void) {
    uint32_t before;
    DEBUG_MONITOR |= UINT32_C(1) << 24; /* TRCENA */
    DWT_CYCLES = 0;
    DWT_CONTROL |= 1u; /* CYCCNTENA */
    before = DWT_CYCLES;
    edgeopt_counter_loop();
    return DWT_CYCLES != before;
}
#endif

edgeopt_counter edgeopt_counter_open(void) {
    edgeopt_counter counter;
#if !defined(__ARM_ARCH_6M__) && !defined(__ARM_ARCH_8M_BASE__)
    if (dwt_counts()) {
        counter.name = "dwt";
        counter.span = UINT32_MAX;
        return counter;
    }
#endif
    SYSTICK_CONTROL = 0;
    SYSTICK_RELOAD = 0xFFFFFFu;
    SYSTICK_VALUE = 0;
    SYSTICK_CONTROL = 5u; /* the core's clock, no interrupt */
    while (SYSTICK_VALUE == 0u) { /* it is loaded with the next tick */
    }
    counter.name = "systick";
    counter.span = 0x1000000u;
    return counter;
}

uint32_t edgeopt_counter_now(const edgeopt_counter *counter) {
    return counter->span == UINT32_MAX ? DWT_CYCLES : 0xFFFFFFu - (SYSTICK_VALUE & 0xFFFFFFu);
}

void edgeopt_counter_loop(void) {
    uint32_t rounds = EDGEOPT_COUNTER_LOOP / 2u;
    __asm__ volatile(".syntax unified\n\t1:\n\tsubs %0, %0, #1\n\tbne 1b" : "+l"(rounds) : : "cc");
}

#endif

uint32_t edgeopt_counter_between(const edgeopt_counter *counter, uint32_t begin, uint32_t end) {
    uint32_t first = edgeopt_counter_now(counter);
    uint32_t reading = edgeopt_counter_now(counter) - first;
    uint32_t passed = end - begin;
    if (counter->span != UINT32_MAX) {
        reading &= counter->span - 1u;
        passed &= counter->span - 1u;
    }
    return passed > reading ? passed - reading : 0u;
}
