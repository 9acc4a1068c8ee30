/* The driver without an operating system. Results leave through the parallel port; pages come
 * from a region whose page tables are kept here. */
#include "driver.h"

#define DIRECTORY ((volatile uint64_t *)0x12000)  /* of the first GiB, see rom.S */
#define TABLES ((volatile uint64_t *)0x1000000)   /* page tables of the region */
#define REGION 0x8000000ull
enum { REGION_PAGES = 0x4000000 / PAGE, TRAPS = 32 };

static size_t next_page;
static void *back[5];
static outcome trap;

static void out(uint16_t port, uint8_t value) {
    __asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static void flush(void) {
    uint64_t tables;
    __asm__ volatile("mov %%cr3, %0; mov %0, %%cr3" : "=r"(tables) : : "memory");
}

static void finish(void) { /* a port of the emulator's: ends it */
    for (const char *p = "Shutdown"; *p; p++) out(0x8900, (uint8_t)*p);
    for (;;) __asm__ volatile("hlt");
}

unsigned char *map_pages(size_t pages) {
    const size_t first = next_page + 1;
    next_page = first + pages + 1;
    if (next_page > REGION_PAGES) {
        put("the region is full", 18);
        finish();
    }
    for (size_t i = first; i < first + pages; i++) TABLES[i] = (REGION + i * PAGE) | 3;
    flush();
    return (unsigned char *)(REGION + first * PAGE);
}

void make_read_only(unsigned char *pages_at, size_t pages) {
    const size_t first = ((uint64_t)pages_at - REGION) / PAGE;
    for (size_t i = first; i < first + pages; i++) TABLES[i] &= ~2ull;
    flush();
}

void unmap_all(void) {
    for (size_t i = 0; i < next_page; i++) TABLES[i] = 0;
    next_page = 0;
    flush();
}

void put(const void *bytes, size_t size) {
    const uint8_t *from = bytes;
    for (size_t i = 0; i < size; i++) { /* data, then the strobe */
        out(0x378, from[i]);
        out(0x37a, 0xd);
        out(0x37a, 0xc);
    }
}

/* -- exceptions ------------------------------------------------------------------------------ */

__attribute__((used)) static void on_trap(uint64_t number) {
    trap.trapped = (int32_t)number + 1000; /* told apart from signals */
    __asm__ volatile("mov %%cr2, %0" : "=r"(trap.address));
    if (number != 14) trap.address = 0;
    __builtin_longjmp(back, 1);
}

__asm__(".balign 16\n"
        "traps:\n"
        ".set i, 0\n"
        ".rept 32\n"
        ".balign 16\n"
        "mov $i, %edi\n"
        "jmp 1f\n"
        ".set i, i + 1\n"
        ".endr\n"
        "1: and $-16, %rsp\n"
        "cld\n"
        "call on_trap\n");
extern const unsigned char traps[];

static void catch_traps(void) {
    static uint64_t table[TRAPS][2];
    struct __attribute__((packed)) {
        uint16_t limit;
        const void *base;
    } pointer = {sizeof table - 1, table};
    for (uint64_t i = 0; i < TRAPS; i++) {
        const uint64_t at = (uint64_t)(traps + 16 * i);
        table[i][0] = (at & 0xffff) | (0x18ull << 16) | (0x8eull << 40) | (at >> 16 & 0xffff) << 48;
        table[i][1] = at >> 32;
    }
    __asm__ volatile("lidt %0" : : "m"(pointer));
}

outcome attempt(int32_t kernel, void **arguments) {
    trap.trapped = 0;
    if (__builtin_setjmp(back) == 0) trap.status = call_kernel(kernel, arguments);
    return trap;
}

/* -- what compilers call --------------------------------------------------------------------- */

void *memcpy(void *to, const void *from, size_t size) {
    void *result = to;
    __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
    return result;
}

void *memset(void *to, int value, size_t size) {
    void *result = to;
    __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
    return result;
}

int memcmp(const void *a, const void *b, size_t size) {
    const uint8_t *x = a, *y = b;
    for (; size; size--, x++, y++)
        if (*x != *y) return *x - *y;
    return 0;
}

__attribute__((section(".start"), used)) void start(const unsigned char *work) {
    catch_traps();
    for (size_t i = 0; i < REGION_PAGES; i++) TABLES[i] = 0;
    for (size_t i = 0; i < REGION_PAGES / 512; i++)
        DIRECTORY[REGION / 0x200000 + i] = ((uint64_t)TABLES + i * PAGE) | 3;
    flush();
    out(0x37a, 0xc);
    drive(work);
    finish();
}
