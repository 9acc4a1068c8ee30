/* Start-up of 32-bit RISC-V machines, in machine mode; every trap is a fault. */
#include "board.h"

extern uint32_t board_data_load[], board_data_start[], board_data_end[];
extern uint32_t board_bss_start[], board_bss_end[];
extern int main(void);

void board_reset(void);
void board_start(void);
void board_fault(void);

__attribute__((naked, section(".vectors"), used)) void board_reset(void) {
    __asm__ volatile(
        ".option push\n\t"
        ".option norelax\n\t"
        "la gp, __global_pointer$\n\t"
        ".option pop\n\t"
        ".option arch, +zicsr\n\t"
        "la sp, board_stack_top\n\t"
        "la t0, board_fault\n\t"
        "csrw mtvec, t0\n\t"
#if defined(__riscv_flen)
        "li t0, 0x2000\n\t" /* mstatus.FS: the FPU is on */
        "csrs mstatus, t0\n\t"
#endif
        "j board_start");
}

void board_start(void) {
    const uint32_t *from = board_data_load;
    uint32_t *to;
    for (to = board_data_start; to < board_data_end; ++to) {
        *to = *from++;
    }
    for (to = board_bss_start; to < board_bss_end; ++to) {
        *to = 0U;
    }
    board_exit(main());
}

static void hex(const char *name, uint32_t value) {
    char text[9];
    int i;
    for (i = 0; i < 8; ++i) {
        text[i] = "0123456789abcdef"[(value >> (28 - 4 * i)) & 15U];
    }
    text[8] = '\0';
    board_print(name);
    board_print(text);
}

__attribute__((aligned(4))) void board_fault(void) {
    uint32_t cause, pc, value;
    __asm__ volatile(".option arch, +zicsr\n\tcsrr %0, mcause" : "=r"(cause));
    __asm__ volatile("csrr %0, mepc" : "=r"(pc));
    __asm__ volatile("csrr %0, mtval" : "=r"(value));
    board_print("\nFAULT ");
    board_print_number(cause);
    hex(" pc=0x", pc);
    hex(" address=0x", value);
    board_print("\n");
    board_exit(99);
}

void board_exit(int status) {
    /* semihosting's SYS_EXIT_EXTENDED; the three instructions are the call, and may not be
       compressed or lie across a page */
    uint32_t reason[2];
    register uint32_t operation __asm__("a0") = 0x20U;
    register const uint32_t *argument __asm__("a1") = reason;
    reason[0] = 0x20026U;
    reason[1] = (uint32_t)status;
    __asm__ volatile(
        ".option push\n\t"
        ".option norvc\n\t"
        ".balign 16\n\t"
        "slli zero, zero, 0x1f\n\t"
        "ebreak\n\t"
        "srai zero, zero, 7\n\t"
        ".option pop"
        : "+r"(operation)
        : "r"(argument)
        : "memory");
    for (;;) {
    }
}
