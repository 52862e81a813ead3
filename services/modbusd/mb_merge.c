#include "services/modbusd/mb_merge.h"

#include <string.h>

#include "libcommon/base.h"
#include "libcommon/banned.h"

enum { BITS_PER_REG = 16 };

size_t
mb_merge_plan(const struct mb_range *ranges, size_t n, const struct mb_merge_limits *limits,
              bool bits, bool *ret_first)
{
    uint32_t gap = bits ? limits->gap * BITS_PER_REG : limits->gap;
    uint32_t most = bits ? limits->quantity * BITS_PER_REG : limits->quantity;
    uint32_t begin = 0, end = 0; /* of the request that is being filled */
    size_t n_requests = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t addr = ranges[i].addr, over = addr + ranges[i].n;
        uint32_t new_end = over > end ? over : end;
        bool joins = n_requests > 0 && addr <= end + gap && new_end - begin <= most;
        ret_first[i] = !joins;
        if (!joins) {
            begin = addr;
            new_end = over;
            n_requests++;
        }
        end = new_end;
    }
    return n_requests;
}

/* 'n' bits from bit 'from' on. */
static void
cut_bits(const uint8_t *data, uint32_t from, uint32_t n, uint8_t *ret_data)
{
    memset(ret_data, 0, (n + 7) / 8);
    for (uint32_t i = 0; i < n; i++) {
        uint32_t at = from + i;
        ret_data[i / 8] |= (uint8_t)((data[at / 8] >> at % 8 & 1) << i % 8);
    }
}

void
mb_merge_cut(const uint8_t *data, const struct mb_range *whole, const struct mb_range *part,
             bool bits, uint8_t *ret_data)
{
    MUST(part->addr >= whole->addr && part->addr + part->n <= whole->addr + whole->n);
    uint32_t from = part->addr - whole->addr;
    if (bits)
        cut_bits(data, from, part->n, ret_data);
    else
        memcpy(ret_data, data + 2u * from, 2u * part->n);
}
