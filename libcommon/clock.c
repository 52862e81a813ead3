/*
 * The two clocks, and RFC 3339 text without the C library's calendar: the
 * Gregorian rules are computed here, so no locale or time zone takes part.
 */
#include "libcommon/clock.h"

#include <time.h>

#include "libcommon/base.h"

#include "libcommon/banned.h"

enum { US_PER_S = 1000000, S_PER_DAY = 86400 };

/* Seconds of 0001-01-01T00:00:00Z and of 10000-01-01T00:00:00Z. */
static const int64_t FIRST_S = -62135596800, PAST_S = 253402300800;

uint64_t
clock_mono_us(void)
{
    struct timespec ts;
    int r = clock_gettime(CLOCK_MONOTONIC, &ts);
    MUST(r == 0);
    return (uint64_t)ts.tv_sec * US_PER_S + (uint64_t)ts.tv_nsec / 1000;
}

int64_t
clock_wall_us(void)
{
    struct timespec ts;
    int r = clock_gettime(CLOCK_REALTIME, &ts);
    MUST(r == 0);
    return (int64_t)ts.tv_sec * US_PER_S + ts.tv_nsec / 1000;
}

/* Writes 'v' with exactly 'n' digits; returns what follows. */
static char *
put_digits(char *p, uint32_t v, int n)
{
    for (int i = n - 1; i >= 0; i--, v /= 10)
        p[i] = (char)('0' + v % 10);
    return p + n;
}

/* Day 0 is 1970-01-01. Years begin in March here, so that the leap day comes last. */
static void
date_of_day(int64_t day, uint32_t *ret_year, uint32_t *ret_month, uint32_t *ret_mday)
{
    enum { DAYS_PER_ERA = 146097, DAYS_TO_1970 = 719468 }; /* from 0000-03-01 */

    uint32_t shifted = (uint32_t)(day + DAYS_TO_1970); /* positive from year 1 on */
    uint32_t era = shifted / DAYS_PER_ERA;             /* of 400 years */
    uint32_t doe = shifted % DAYS_PER_ERA;
    uint32_t yoe = (doe - doe / 1460 + doe / 36524 - doe / 146096) / 365;
    uint32_t doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    uint32_t mp = (5 * doy + 2) / 153; /* 0: March */

    *ret_mday = doy - (153 * mp + 2) / 5 + 1;
    *ret_month = mp < 10 ? mp + 3 : mp - 9;
    *ret_year = era * 400 + yoe + (*ret_month <= 2);
}

void
clock_format(int64_t wall_us, int digits, char ret_text[CLOCK_TEXT_SIZE])
{
    MUST(digits >= 0 && digits <= 9);

    int64_t s = wall_us / US_PER_S;
    int64_t us = wall_us % US_PER_S;
    if (us < 0) {
        us += US_PER_S;
        s--;
    }
    if (s < FIRST_S) {
        s = FIRST_S;
        us = 0;
    } else if (s >= PAST_S) {
        s = PAST_S - 1;
        us = US_PER_S - 1;
    }

    int64_t day = s / S_PER_DAY;
    int64_t in_day = s % S_PER_DAY;
    if (in_day < 0) {
        in_day += S_PER_DAY;
        day--;
    }
    uint32_t year, month, mday;
    date_of_day(day, &year, &month, &mday);
    uint32_t sec = (uint32_t)in_day;

    char *p = put_digits(ret_text, year, 4);
    *p++ = '-';
    p = put_digits(p, month, 2);
    *p++ = '-';
    p = put_digits(p, mday, 2);
    *p++ = 'T';
    p = put_digits(p, sec / 3600, 2);
    *p++ = ':';
    p = put_digits(p, sec / 60 % 60, 2);
    *p++ = ':';
    p = put_digits(p, sec % 60, 2);
    if (digits > 0) {
        char fraction[9];
        (void)put_digits(fraction, (uint32_t)us * 1000, 9);
        *p++ = '.';
        for (int i = 0; i < digits; i++)
            *p++ = fraction[i];
    }
    *p++ = 'Z';
    *p = '\0';
}
