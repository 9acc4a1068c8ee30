/* A stand-in for a sensor with DMA: a timer interrupt that calls sensor_deliver.
 *
 * Replace it by your camera's or codec's driver: what matters is that the interrupt writes one buffer
 * while the network reads the other.
 *
 * SPDX-License-Identifier: Apache-2.0 */
#ifndef SENSOR_H
#define SENSOR_H

#include <stdint.h>

/* Called in the interrupt; the program defines it. */
void sensor_deliver(void);

/* Starts the interrupts, one every so many cycles of the core. */
void sensor_start(uint32_t cycles);
void sensor_stop(void);

/* Sleeps until the next interrupt. */
void sensor_wait(void);

#endif
