/* Requests as bytes, replies against their requests, frames out of a stream. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <errno.h>
#include <string.h>

#include "libcommon/base.h"
#include "libcommon/str.h"
#include "services/modbusd/mb_pdu.h"

static const uint8_t data[300] = { 0xCD, 0x6B, 0xB2, 0x0E, 0x1B, 0xFF };

static void
requests_are_the_bytes_of_the_standard(void **state)
{
    (void)state;
    static const struct {
        struct mb_ask ask;
        const char *hex;
    } table[] = {
        /* the examples of the Modbus Application Protocol, sections 6.1 to 6.17 */
        { { .func = 1, .addr = 0x13, .n = 0x13 }, "0100130013" },
        { { .func = 2, .addr = 0xC4, .n = 0x16 }, "0200C40016" },
        { { .func = 3, .addr = 0x6B, .n = 3 }, "03006B0003" },
        { { .func = 4, .addr = 8, .n = 1 }, "0400080001" },
        { { .func = 5, .write_addr = 0xAC, .n_write = 1, .data = data }, "0500ACFF00" },
        { { .func = 5, .write_addr = 0xAC, .n_write = 1, .data = data + 2 }, "0500AC0000" },
        { { .func = 6, .write_addr = 1, .n_write = 1, .data = data }, "060001CD6B" },
        { { .func = 15, .write_addr = 0x13, .n_write = 10, .data = data }, "0F0013000A02CD03" },
        { { .func = 15, .write_addr = 0x13, .n_write = 8, .data = data }, "0F0013000801CD" },
        { { .func = 16, .write_addr = 1, .n_write = 2, .data = data }, "100001000204CD6BB20E" },
        { { .func = 23, .addr = 3, .n = 6, .write_addr = 14, .n_write = 3, .data = data },
          "1700030006000E000306CD6BB20E1BFF" },
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        uint8_t pdu[MB_PDU_MAX];
        char hex[2 * MB_PDU_MAX + 1];
        int n = mb_pdu_encode(&table[i].ask, pdu);
        assert_true(n > 0);
        hex_encode(pdu, (size_t)n, hex);
        assert_string_equal(hex, table[i].hex);
    }
}

static void
quantities_and_addresses_out_of_range_are_refused(void **state)
{
    (void)state;
    static const struct {
        uint8_t func;
        unsigned most; /* of the part that is tried */
        bool writes;
    } table[] = {
        { 1, 2000, false }, { 2, 2000, false }, { 3, 125, false },  { 4, 125, false },
        { 5, 1, true },     { 6, 1, true },     { 15, 1968, true }, { 16, 123, true },
        { 23, 125, false }, { 23, 121, true },
    };
    uint8_t pdu[MB_PDU_MAX];
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        struct mb_ask ask = { .func = table[i].func, .n = 1, .n_write = 1, .data = data };
        uint16_t *n = table[i].writes ? &ask.n_write : &ask.n;
        uint16_t *addr = table[i].writes ? &ask.write_addr : &ask.addr;
        *n = (uint16_t)table[i].most;
        *addr = (uint16_t)(65536 - table[i].most);
        int size = mb_pdu_encode(&ask, pdu);
        assert_in_range(size, 5, MB_PDU_MAX);
        if (table[i].most > 1) {
            *addr += 1;
            assert_int_equal(mb_pdu_encode(&ask, pdu), -EINVAL);
        }
        *addr = 0;
        *n += 1;
        assert_int_equal(mb_pdu_encode(&ask, pdu), -EINVAL);
        *n = 0;
        assert_int_equal(mb_pdu_encode(&ask, pdu), -EINVAL);
    }
    struct mb_ask unknown = { .func = 22, .n = 1, .n_write = 1, .data = data };
    assert_int_equal(mb_pdu_encode(&unknown, pdu), -EINVAL);
}

static void
replies_are_held_against_their_requests(void **state)
{
    (void)state;
    static const struct {
        const char *head, *reply;
        enum mb_check check;
        size_t n_data;
        uint8_t exception;
    } table[] = {
        { "0100130013", "0103CD6B05", MB_CHECK_OK, 3, 0 },
        { "0300000002", "030400010002", MB_CHECK_OK, 4, 0 },
        { "1700000001", "17020001", MB_CHECK_OK, 2, 0 },
        { "0500ACFF00", "0500ACFF00", MB_CHECK_OK, 0, 0 },
        { "1000010002", "1000010002", MB_CHECK_OK, 0, 0 },
        { "0300000002", "8302", MB_CHECK_EXCEPTION, 0, 2 },
        { "0500AC0000", "850B", MB_CHECK_EXCEPTION, 0, 11 },
        { "0300000002", "", MB_CHECK_BAD, 0, 0 },
        { "0300000002", "03", MB_CHECK_BAD, 0, 0 },
        { "0300000002", "83", MB_CHECK_BAD, 0, 0 },
        { "0300000002", "830200", MB_CHECK_BAD, 0, 0 },
        { "0300000002", "8402", MB_CHECK_BAD, 0, 0 },
        { "0300000002", "040400010002", MB_CHECK_BAD, 0, 0 },
        { "0300000002", "0302000100", MB_CHECK_BAD, 0, 0 },
        { "0300000002", "03040001", MB_CHECK_BAD, 0, 0 },
        { "0300000002", "03040001000200", MB_CHECK_BAD, 0, 0 },
        { "0300000002", "0306000100020003", MB_CHECK_BAD, 0, 0 },
        { "0500ACFF00", "0500AC0000", MB_CHECK_BAD, 0, 0 },
        { "1000010002", "1000010003", MB_CHECK_BAD, 0, 0 },
        { "1000010002", "100001000200", MB_CHECK_BAD, 0, 0 },
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        uint8_t head[MB_HEAD_SIZE], reply[64], exception = 0;
        const uint8_t *bytes = NULL;
        size_t n_bytes = 0;
        assert_int_equal(hex_decode(table[i].head, strlen(table[i].head), head, sizeof(head)),
                         5);
        int n = hex_decode(table[i].reply, strlen(table[i].reply), reply, sizeof(reply));
        assert_true(n >= 0);
        assert_int_equal(mb_pdu_check(head, reply, (size_t)n, &bytes, &n_bytes, &exception),
                         table[i].check);
        assert_int_equal(exception, table[i].exception);
        assert_int_equal(n_bytes, table[i].n_data);
        if (n_bytes)
            assert_ptr_equal(bytes, reply + 2);
    }
}

static void
frames_are_cut_at_their_length(void **state)
{
    (void)state;
    uint8_t bytes[MB_ADU_MAX];
    static const uint8_t pdu[5] = { 3, 0, 0, 0, 1 };
    struct mb_frame f;
    size_t n = mb_frame_encode(0x1234, 17, pdu, sizeof(pdu), bytes);
    assert_int_equal(n, 12);
    for (size_t part = 0; part < n; part++)
        assert_int_equal(mb_frame_cut(bytes, part, &f), MB_CUT_MORE);
    assert_int_equal(mb_frame_cut(bytes, n, &f), MB_CUT_FRAME);
    assert_int_equal(f.tid, 0x1234);
    assert_int_equal(f.unit, 17);
    assert_int_equal(f.n, sizeof(pdu));
    assert_int_equal(f.size, n);
    assert_memory_equal(f.pdu, pdu, sizeof(pdu));
}

static void
what_cannot_be_a_frame_is_noticed_at_its_first_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *hex;
        enum mb_cut cut;
    } table[] = {
        { "", MB_CUT_MORE },
        { "FFFF", MB_CUT_MORE },
        { "FFFF01", MB_CUT_LOST }, /* protocol */
        { "FFFF0001", MB_CUT_LOST },
        { "FFFF000001", MB_CUT_LOST }, /* 256 bytes and more */
        { "000100000000", MB_CUT_LOST },
        { "000100000001", MB_CUT_LOST },
        { "000100000002", MB_CUT_MORE },
        { "0001000000FE", MB_CUT_MORE },
        { "0001000000FF", MB_CUT_LOST },
    };
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        uint8_t bytes[16];
        struct mb_frame f;
        int n = hex_decode(table[i].hex, strlen(table[i].hex), bytes, sizeof(bytes));
        assert_true(n >= 0);
        assert_int_equal(mb_frame_cut(bytes, (size_t)n, &f), table[i].cut);
    }
}

static void
exceptions_have_names(void **state)
{
    (void)state;
    assert_string_equal(mb_exception_text(2), "illegal data address");
    assert_string_equal(mb_exception_text(7), "unknown");
    assert_string_equal(mb_exception_text(255), "unknown");
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(requests_are_the_bytes_of_the_standard),
        cmocka_unit_test(quantities_and_addresses_out_of_range_are_refused),
        cmocka_unit_test(replies_are_held_against_their_requests),
        cmocka_unit_test(frames_are_cut_at_their_length),
        cmocka_unit_test(what_cannot_be_a_frame_is_noticed_at_its_first_bytes),
        cmocka_unit_test(exceptions_have_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
