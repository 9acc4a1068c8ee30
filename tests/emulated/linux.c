/* The driver as a Linux program: `driver WORK RESULTS`. */
#define _GNU_SOURCE
#include "driver.h"

#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

static FILE *results;
static sigjmp_buf back;
static volatile outcome trap;
static struct {
    void *at;
    size_t size;
} mapped[64];
static size_t mapped_count;

unsigned char *map_pages(size_t pages) {
    const size_t size = (pages + 2) * PAGE;
    unsigned char *at = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED || mapped_count == 64) abort();
    mapped[mapped_count].at = at;
    mapped[mapped_count++].size = size;
    if (mprotect(at + PAGE, pages * PAGE, PROT_READ | PROT_WRITE)) abort();
    return at + PAGE;
}

void make_read_only(unsigned char *pages_at, size_t pages) {
    if (mprotect(pages_at, pages * PAGE, PROT_READ)) abort();
}

void unmap_all(void) {
    while (mapped_count) {
        mapped_count--;
        munmap(mapped[mapped_count].at, mapped[mapped_count].size);
    }
}

void put(const void *bytes, size_t size) {
    if (fwrite(bytes, 1, size, results) != size) abort();
}

static void on_trap(int number, siginfo_t *info, void *context) {
    (void)context;
    trap.trapped = number;
    trap.address = (uint64_t)(uintptr_t)info->si_addr;
    siglongjmp(back, 1);
}

outcome attempt(int32_t kernel, void **arguments) {
    trap.trapped = 0;
    if (sigsetjmp(back, 1) == 0) trap.status = call_kernel(kernel, arguments);
    return trap;
}

int main(int count, char **names) {
    struct sigaction action = {.sa_sigaction = on_trap, .sa_flags = SA_SIGINFO};
    const int traps[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE};
    for (size_t i = 0; i < sizeof traps / sizeof *traps; i++) sigaction(traps[i], &action, NULL);
    if (count != 3) return 2;
    const int work = open(names[1], O_RDONLY);
    struct stat about;
    if (work < 0 || fstat(work, &about)) return 2;
    const unsigned char *bytes =
        mmap(NULL, (size_t)about.st_size, PROT_READ, MAP_PRIVATE, work, 0);
    results = fopen(names[2], "wb");
    if (bytes == MAP_FAILED || !results) return 2;
    drive(bytes);
    return fclose(results) ? 2 : 0;
}
