/* What the driver needs of the machine it runs on. */
#ifndef DRIVER_H
#define DRIVER_H
#include <stddef.h>
#include <stdint.h>

enum { PAGE = 4096 };

/* Writable pages with an inaccessible one on either side; all are given back at once. */
unsigned char *map_pages(size_t pages);
void make_read_only(unsigned char *pages_at, size_t pages);
void unmap_all(void);

/* Append to the results. */
void put(const void *bytes, size_t size);

typedef struct {
    int32_t trapped; /* 0, or the signal or exception */
    int32_t status;  /* what the kernel returned */
    uint64_t address;
} outcome;

/* Call a kernel; a fault ends the call, not the program. */
outcome attempt(int32_t kernel, void **arguments);
int32_t call_kernel(int32_t kernel, void **arguments); /* generated */

void drive(const unsigned char *work);

#endif
