/*
 * Functions that truncate, overflow or swallow errors in silence: naming one
 * of them is a compile error. Include this after every other header of a .c
 * file. Instead: str_copy and str_copy_len, buf_printf or snprintf, parse_u32
 * and its kin (libcommon/str.h), clock_format (libcommon/clock.h).
 */
#ifndef FIELDGATE_BANNED_H
#define FIELDGATE_BANNED_H

/* Some C libraries and compilers have them as macros, which cannot be poisoned. */
#undef strcpy
#undef strcat
#undef sprintf
#undef vsprintf
#undef strncpy
#undef strncat
#undef strtok
#pragma GCC poison strcpy strcat sprintf vsprintf strncpy strncat strtok
#pragma GCC poison atoi atol atoll atof strtol
#pragma GCC poison gmtime localtime asctime ctime
#pragma GCC poison cJSON_GetErrorPtr /* what it reads, any thread writes: see json_parse */

#endif
