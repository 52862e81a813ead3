/*
 * Which units (bits or registers) of one of the four tables of Modbus, or of
 * one zone, are taken: for placing zones and tags without overlap.
 */
#ifndef FIELDGATE_SL_SPACE_H
#define FIELDGATE_SL_SPACE_H

#include <stdbool.h>
#include <stdint.h>

/* A table has 65,536 units; a zone of registers counts its bytes. */
enum { SL_TABLE_UNITS = 65536, SL_SPACE_MAX = 2 * SL_TABLE_UNITS };

struct sl_space {
    uint32_t n; /* units there are */
    uint64_t taken[SL_SPACE_MAX / 64];
};

/* 'n' free units, at most SL_SPACE_MAX. */
void sl_space_init(struct sl_space *s, uint32_t n);
/* Takes 'n' units from 'first' on; false, with nothing taken, when some are taken or there are
 * none. 'n' is 1 at least. */
bool sl_space_take(struct sl_space *s, uint32_t first, uint32_t n);
/* Frees units, taken or not; first + n is at most those there are. */
void sl_space_free(struct sl_space *s, uint32_t first, uint32_t n);
/* The lowest 'n' (1 at least) free units in a row from 'least' on; -1: there is no room. */
int32_t sl_space_find(const struct sl_space *s, uint32_t least, uint32_t n);

#endif
