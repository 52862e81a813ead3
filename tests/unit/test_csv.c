/* CSV: what is written is read back; what is no CSV is refused with its place. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

#include "libcommon/buf.h"
#include "libcommon/csv.h"

enum { CELLS_MAX = 4 };

static char bytes[1024];
static struct csv_reader reader;
static struct csv_cell cells[CELLS_MAX];
static size_t n_cells;

static void
read_text(const char *text)
{
    size_t n = strlen(text);
    assert_true(n < sizeof(bytes));
    memcpy(bytes, text, n);
    csv_reader_init(&reader, bytes, n);
}

static void
next_row(uint64_t line, size_t n, ...)
{
    va_list want;
    assert_int_equal(csv_read_row(&reader, cells, CELLS_MAX, &n_cells), CSV_ROW);
    assert_int_equal(reader.line, line);
    assert_int_equal(n_cells, n);
    va_start(want, n);
    for (size_t i = 0; i < n; i++)
        assert_string_equal(cells[i].text, va_arg(want, const char *));
    va_end(want);
}

static void
end(void)
{
    assert_int_equal(csv_read_row(&reader, cells, CELLS_MAX, &n_cells), CSV_END);
}

static void
is_bad(uint64_t line, size_t cell, const char *word)
{
    assert_int_equal(csv_read_row(&reader, cells, CELLS_MAX, &n_cells), CSV_BAD);
    assert_int_equal(reader.line, line);
    assert_int_equal(reader.fault_cell, cell);
    assert_non_null(strstr(reader.fault, word));
}

static void
lines_end_with_cr_lf_or_lf_and_the_last_with_nothing(void **state)
{
    (void)state;
    read_text("a,b\r\nc\nd,,f");
    next_row(1, 2, "a", "b");
    next_row(2, 1, "c");
    next_row(3, 3, "d", "", "f");
    end();
    end();
}

static void
a_byte_order_mark_and_empty_lines_are_no_cells(void **state)
{
    (void)state;
    read_text("\xef\xbb\xbf\"a\",b\r\n\r\n,\n");
    next_row(1, 2, "a", "b");
    next_row(2, 1, "");
    next_row(3, 2, "", "");
    end();
    read_text("");
    end();
}

static void
quotes_hold_commas_quotes_and_lines(void **state)
{
    (void)state;
    read_text("\"a,b\",\"say \"\"hi\"\"\"\r\n\"two\r\nlines\",\"\",x\nnext,\"end\"");
    next_row(1, 2, "a,b", "say \"hi\"");
    next_row(2, 3, "two\r\nlines", "", "x");
    assert_true(cells[1].quoted && !cells[2].quoted);
    next_row(4, 2, "next", "end");
    end();
}

static void
a_bad_line_is_told_and_the_next_one_read(void **state)
{
    (void)state;
    read_text("ok\na,b\"c\nok\n\"a\"b,c\nok\n1,2,3,4,5\nok\n\"never closed\nok\n");
    next_row(1, 1, "ok");
    is_bad(2, 2, "inside a cell");
    next_row(3, 1, "ok");
    is_bad(4, 1, "after a closing quote");
    next_row(5, 1, "ok");
    is_bad(6, 5, "too many cells");
    next_row(7, 1, "ok");
    is_bad(8, 1, "not closed");
    end();
}

static void
a_carriage_return_inside_a_cell_is_a_character(void **state)
{
    (void)state;
    read_text("a\rb,c\r");
    next_row(1, 2, "a\rb", "c\r");
    end();
}

static void
bytes_that_are_no_text_have_a_length(void **state)
{
    (void)state;
    memcpy(bytes, "a\0b,c", 5);
    csv_reader_init(&reader, bytes, 5);
    assert_int_equal(csv_read_row(&reader, cells, CELLS_MAX, &n_cells), CSV_ROW);
    assert_int_equal(n_cells, 2);
    assert_int_equal(cells[0].len, 3);
}

static void
texts_that_look_like_formulas_come_back_without_the_apostrophe(void **state)
{
    (void)state;
    static const char *const texts[] = { "=1+2", "-5",        "+x",         "@a",
                                         "'=x",  "''-",       "'quoted'",   "\tx",
                                         "",     "°C, \"x\"", "=\"a\",\r\n" };
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct buf b;
        buf_init(&b, sizeof(bytes) - 1);
        csv_put_cell(&b, true, texts[i], strlen(texts[i]));
        csv_put_bare(&b, false, "-5");
        csv_end_line(&b);
        assert_int_equal(b.err, 0);
        assert_null(strchr("=+-@\t", b.data[0] ? b.data[0] : ','));
        memcpy(bytes, b.data, b.len);
        csv_reader_init(&reader, bytes, b.len);
        assert_int_equal(csv_read_row(&reader, cells, CELLS_MAX, &n_cells), CSV_ROW);
        assert_int_equal(n_cells, 2);
        csv_unguard(&cells[0]);
        assert_string_equal(cells[0].text, texts[i]);
        assert_string_equal(cells[1].text, "-5");
        buf_done(&b);
    }
}

int
main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_end_with_cr_lf_or_lf_and_the_last_with_nothing),
        cmocka_unit_test(a_byte_order_mark_and_empty_lines_are_no_cells),
        cmocka_unit_test(quotes_hold_commas_quotes_and_lines),
        cmocka_unit_test(a_bad_line_is_told_and_the_next_one_read),
        cmocka_unit_test(a_carriage_return_inside_a_cell_is_a_character),
        cmocka_unit_test(bytes_that_are_no_text_have_a_length),
        cmocka_unit_test(texts_that_look_like_formulas_come_back_without_the_apostrophe),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
