/*
 * The two clocks. Deadlines and intervals use the monotonic one and so never
 * notice that somebody set the date; time stamps use the wall clock.
 */
#ifndef FIELDGATE_CLOCK_H
#define FIELDGATE_CLOCK_H

#include <stddef.h>
#include <stdint.h>

/* CLOCK_MONOTONIC in µs: comparable between processes of one boot. */
uint64_t clock_mono_us(void);

/* CLOCK_REALTIME in µs since 1970-01-01T00:00:00Z. */
int64_t clock_wall_us(void);

enum { CLOCK_TEXT_SIZE = 40 };

/*
 * 'wall_us' as RFC 3339 text in UTC with 'digits' (0..9) digits of a second,
 * e.g. 2026-03-02T02:11:12.964368Z. Years 0001..9999, else clamped.
 */
void clock_format(int64_t wall_us, int digits, char ret_text[CLOCK_TEXT_SIZE]);

#endif
