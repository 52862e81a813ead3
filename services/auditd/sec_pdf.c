/*
 * The security report as a document one hands to an auditor. The only file
 * that knows libharu.
 *
 * libharu calls on_error() and goes on; from then on everything here does
 * nothing, and sec_pdf() returns what went wrong.
 */
#include <errno.h>
#include <hpdf.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "gen/api_auditd.h"
#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "libcommon/str.h"
#include "services/auditd/secadvisor.h"

#include "libcommon/banned.h"

#define FONT_DIR "/usr/share/fonts/truetype/dejavu/"
static const char regular_path[] = FONT_DIR "DejaVuSans.ttf";
static const char bold_path[] = FONT_DIR "DejaVuSans-Bold.ttf";

/* Points (1/72 inch) on A4. */
enum {
    LEFT = 56,
    RIGHT = 539,
    TOP = 770,
    BOTTOM = 64,
    PAGES_MAX = 64,
    LINE_SIZE =
        SEC_EVIDENCE_SIZE * 4, /* bytes of a text; "<U+1F600>" takes more than the character */
    BADGE_WIDTH = 56,
    TEXT_LEFT = LEFT + 68, /* of a finding */
    LABEL_WIDTH = 56,
};
static const float title_size = 25, heading_size = 13, body_size = 8.5f, small_size = 7.5f;

/* Dark enough to tell apart when printed in grey. */
static const HPDF_RGBColor ink = { 0.13f, 0.15f, 0.18f }, grey = { 0.42f, 0.45f, 0.48f },
                           pale = { 0.93f, 0.94f, 0.95f }, rule_grey = { 0.78f, 0.80f, 0.82f },
                           blue = { 0.10f, 0.25f, 0.42f }, red = { 0.66f, 0.11f, 0.11f },
                           green = { 0.07f, 0.45f, 0.25f }, white = { 1, 1, 1 };

struct doc {
    HPDF_Doc pdf;
    HPDF_Font regular, bold;
    HPDF_Page page, pages[PAGES_MAX];
    unsigned n_pages;
    float y;   /* the next line's top */
    int error; /* 0 or -errno: the first */
    const struct sec_report *report;
    char date[CLOCK_TEXT_SIZE + 8];
};

static void *
allocate(HPDF_UINT size)
{
    return malloc(size);
}

static void
release(void *memory)
{
    free(memory);
}

static void
on_error(HPDF_STATUS error, HPDF_STATUS detail, void *arg)
{
    struct doc *d = arg;
    (void)detail;
    if (d->error == 0)
        d->error = error == HPDF_FAILD_TO_ALLOC_MEM ? -ENOMEM : -EIO;
}

/* ---- text ---- */

static const struct {
    unsigned char first, mask;
    size_t len;
} utf8_forms[] = { { 0x00, 0x80, 1 }, { 0xc0, 0xe0, 2 }, { 0xe0, 0xf0, 3 }, { 0xf0, 0xf8, 4 } };

/* The first character of valid UTF-8 and its length. */
static uint32_t
first_character(const char *text, size_t *ret_len)
{
    const unsigned char *p = (const unsigned char *)text;
    for (size_t i = 0; i < ARRAY_LEN(utf8_forms); i++) {
        if ((p[0] & utf8_forms[i].mask) != utf8_forms[i].first)
            continue;
        uint32_t c = p[0] & (uint32_t)(unsigned char)~utf8_forms[i].mask;
        for (size_t k = 1; k < utf8_forms[i].len; k++)
            c = c << 6 | (p[k] & 0x3f);
        *ret_len = utf8_forms[i].len;
        return c;
    }
    *ret_len = 1;
    return '?';
}

/* What the font has no glyphs for: East Asian scripts, emoji and the like. */
static bool
is_missing(uint32_t c)
{
    return (c >= 0x2e80 && c <= 0xd7ff) || (c >= 0xe000 && c <= 0xfaff) || c >= 0xfe30;
}

/* Characters that cannot be shown become their numbers, "<U+4E2D>". */
static void
make_printable(const char *text, char out[LINE_SIZE])
{
    size_t at = 0, len;
    for (; *text && at + 16 < LINE_SIZE; text += len) {
        uint32_t c = first_character(text, &len);
        if (is_missing(c)) {
            at += (size_t)snprintf(out + at, LINE_SIZE - at, "<U+%04X>", c);
            continue;
        }
        memcpy(out + at, text, len);
        at += len;
    }
    out[at] = '\0';
}

static void
set_color(struct doc *d, HPDF_RGBColor c)
{
    HPDF_Page_SetRGBFill(d->page, c.r, c.g, c.b);
    HPDF_Page_SetRGBStroke(d->page, c.r, c.g, c.b);
}

static float
width_of(struct doc *d, HPDF_Font font, float size, const char *text)
{
    if (d->error)
        return 0;
    HPDF_Page_SetFontAndSize(d->page, font, size);
    return HPDF_Page_TextWidth(d->page, text);
}

/* One line with its base line at 'y'. */
static void
put_text(struct doc *d, HPDF_Font font, float size, HPDF_RGBColor color, float x, float y,
         const char *text)
{
    if (d->error)
        return;
    set_color(d, color);
    HPDF_Page_SetFontAndSize(d->page, font, size);
    HPDF_Page_BeginText(d->page);
    HPDF_Page_TextOut(d->page, x, y, text);
    HPDF_Page_EndText(d->page);
}

static void
put_right(struct doc *d, HPDF_Font font, float size, HPDF_RGBColor color, float x, float y,
          const char *text)
{
    put_text(d, font, size, color, x - width_of(d, font, size, text), y, text);
}

/* Bytes of 'text' that fit into 'width': whole words, or part of one that is longer. */
static size_t
fitting(struct doc *d, HPDF_Font font, float size, float width, const char *text)
{
    size_t best = 0, at = 0, len;
    float used = 0;
    while (text[at] && !d->error) {
        char one[5];
        first_character(text + at, &len);
        (void)str_copy_len(one, sizeof(one), text + at, len); /* fits: at most 4 bytes */
        used += width_of(d, font, size, one);
        if (used > width && text[at] != ' ')
            return best ? best : at ? at : len;
        at += len;
        if (text[at] == ' ' || text[at] == '\0')
            best = at;
    }
    return at;
}

/*
 * Text wrapped into 'width', its top at 'y'; only measured without 'draw'.
 * Returns the height.
 */
static float
put_wrapped(struct doc *d, bool draw, HPDF_Font font, float size, HPDF_RGBColor color, float x,
            float y, float width, const char *text)
{
    char clean[LINE_SIZE], line[LINE_SIZE];
    const char *at = clean;
    float leading = size * 1.38f, height = 0;
    make_printable(text, clean);
    do {
        size_t n = fitting(d, font, size, width, at);
        (void)str_copy_len(line, sizeof(line), at, n); /* fits: a part of 'clean' */
        height += leading;
        if (draw)
            put_text(d, font, size, color, x, y - height + leading - size, line);
        at += n;
        at += strspn(at, " ");
    } while (*at && !d->error);
    return height;
}

/* ---- shapes and pages ---- */

static void
fill_box(struct doc *d, HPDF_RGBColor color, float x, float y, float width, float height)
{
    if (d->error)
        return;
    set_color(d, color);
    HPDF_Page_Rectangle(d->page, x, y, width, height);
    HPDF_Page_Fill(d->page);
}

static void
draw_box(struct doc *d, HPDF_RGBColor color, float x, float y, float width, float height)
{
    if (d->error)
        return;
    set_color(d, color);
    HPDF_Page_SetLineWidth(d->page, 0.8f);
    HPDF_Page_Rectangle(d->page, x, y, width, height);
    HPDF_Page_Stroke(d->page);
}

static void
draw_rule(struct doc *d, HPDF_RGBColor color, float y, float thickness)
{
    fill_box(d, color, LEFT, y, RIGHT - LEFT, thickness);
}

static void
new_page(struct doc *d)
{
    if (d->error == 0 && d->n_pages == PAGES_MAX)
        d->error = -E2BIG;
    if (d->error)
        return;
    d->page = HPDF_AddPage(d->pdf);
    if (d->error)
        return;
    HPDF_Page_SetSize(d->page, HPDF_PAGE_SIZE_A4, HPDF_PAGE_PORTRAIT);
    d->pages[d->n_pages++] = d->page;
    d->y = TOP;
}

/* A new page unless there is room for 'height'. */
static void
keep_together(struct doc *d, float height)
{
    if (d->y - height < BOTTOM)
        new_page(d);
}

static void
put_frames(struct doc *d)
{
    char text[64], host[LINE_SIZE];
    make_printable(d->report->host, host);
    for (unsigned i = 0; i < d->n_pages && !d->error; i++) {
        d->page = d->pages[i];
        if (i > 0) {
            put_text(d, d->regular, small_size, grey, LEFT, 800, "Security report");
            put_right(d, d->regular, small_size, grey, RIGHT, 800, host);
            draw_rule(d, rule_grey, 792, 0.5f);
        }
        draw_rule(d, rule_grey, 48, 0.5f);
        (void)snprintf(text, sizeof(text), "Page %u of %u", i + 1, d->n_pages); /* fits */
        put_text(d, d->regular, small_size, grey, LEFT, 36, d->date);
        put_right(d, d->regular, small_size, grey, RIGHT, 36, text);
    }
}

static void
put_heading(struct doc *d, const char *text)
{
    if (d->y < TOP) /* apart from what is above */
        d->y -= 14;
    put_text(d, d->bold, heading_size, blue, LEFT, d->y - heading_size, text);
    d->y -= heading_size + 7;
    draw_rule(d, blue, d->y, 1);
    d->y -= 9;
}

/* ---- the first page ---- */

static void
put_fact(struct doc *d, const char *label, const char *value)
{
    enum { VALUE = LEFT + 110 };
    put_text(d, d->regular, body_size, grey, LEFT, d->y - body_size, label);
    d->y -=
        3 + put_wrapped(d, true, d->regular, body_size, ink, VALUE, d->y, RIGHT - VALUE, value);
}

static void
put_cover(struct doc *d)
{
    char checks[64];
    fill_box(d, blue, 0, 828, 596, 14);
    d->y = 792;
    put_text(d, d->bold, title_size, blue, LEFT, d->y - title_size, "Security report");
    d->y -= title_size + 24;
    (void)snprintf(checks, sizeof(checks), "%zu, in %d groups", d->report->n,
                   SEC_N_GROUPS); /* fits */
    put_fact(d, "Device", d->report->host);
    put_fact(d, "Inspected", d->date);
    put_fact(d, "Software", "Fieldgate, API " API_VERSION);
    put_fact(d, "Profile",
             str_eq(d->report->profile, "bench")
                 ? "bench: for tests, without the protection of an installed device"
                 : d->report->profile);
    put_fact(d, "Checks", checks);
}

static void
put_score(struct doc *d, const struct sec_summary *s)
{
    enum { BAR = LEFT + 110 };
    char text[96];
    float width = RIGHT - BAR;
    (void)snprintf(text, sizeof(text), "%u %%", s->score); /* fits */
    put_text(d, d->bold, 24, ink, LEFT, d->y - 24, text);
    fill_box(d, pale, BAR, d->y - 22, width, 14);
    fill_box(d, blue, BAR, d->y - 22, width * (float)s->score / 100, 14);
    draw_box(d, blue, BAR, d->y - 22, width, 14);
    d->y -= 36;
    d->y -=
        6 + put_wrapped(d, true, d->regular, small_size, grey, LEFT, d->y, RIGHT - LEFT,
                        "Share of the checks that passed. A check of high risk counts three "
                        "times, one of medium risk twice. What could not be found out does "
                        "not count as passed.");
}

enum { TABLE_COLUMNS = 4 };
static const float column_right[TABLE_COLUMNS] = { 330, 400, 470, RIGHT - 8 };

static void
put_row(struct doc *d, bool is_head, bool is_shaded, const char *label,
        const unsigned counts[TABLE_COLUMNS])
{
    static const char *const heads[TABLE_COLUMNS] = { "Passed", "Failed", "Unknown", "All" };
    HPDF_Font font = is_head ? d->bold : d->regular;
    enum { ROW = 16 };
    keep_together(d, ROW);
    if (is_shaded)
        fill_box(d, pale, LEFT, d->y - ROW, RIGHT - LEFT, ROW);
    put_text(d, font, body_size, ink, LEFT + 6, d->y - 11, label);
    for (int i = 0; i < TABLE_COLUMNS; i++) {
        char text[16];
        (void)snprintf(text, sizeof(text), "%u", counts ? counts[i] : 0); /* fits */
        bool bad = counts && i == 1 && counts[i] > 0;
        put_right(d, bad ? d->bold : font, body_size, bad ? red : ink, column_right[i],
                  d->y - 11, is_head ? heads[i] : text);
    }
    d->y -= ROW;
    if (is_head)
        draw_rule(d, ink, d->y, 0.8f);
}

typedef bool pick_fn(const struct sec_finding *f, int which);

static bool
has_risk(const struct sec_finding *f, int which)
{
    return (int)f->check->risk == which;
}

static bool
has_group(const struct sec_finding *f, int which)
{
    return (int)f->check->group == which;
}

static void
put_count(struct doc *d, bool is_shaded, const char *label, pick_fn *pick, int which)
{
    unsigned n[TABLE_COLUMNS] = { 0 };
    for (size_t i = 0; i < d->report->n; i++) {
        const struct sec_finding *f = &d->report->findings[i];
        if (!pick(f, which))
            continue;
        n[f->status == SEC_PASS ? 0 : f->status == SEC_FAIL ? 1 : 2]++;
        n[3]++;
    }
    put_row(d, false, is_shaded, label, n);
}

static void
put_summary(struct doc *d)
{
    static const char *const labels[SEC_N_RISKS] = { "Low risk", "Medium risk", "High risk" };
    struct sec_summary s;
    sec_summarize(d->report, &s);
    put_heading(d, "Summary");
    put_score(d, &s);
    put_row(d, true, false, "By risk", NULL);
    for (int risk = SEC_N_RISKS - 1; risk >= 0; risk--)
        put_count(d, risk % 2 == 0, labels[risk], has_risk, risk);
    d->y -= 14;
    put_row(d, true, false, "By group", NULL);
    for (int g = 0; g < SEC_N_GROUPS; g++)
        put_count(d, g % 2 == 0, sec_group_titles[g], has_group, g);
}

/* ---- what failed, the worst first ---- */

static void
put_failure(struct doc *d, const struct sec_finding *f)
{
    enum { ROW = 15 };
    keep_together(d, ROW);
    put_text(d, d->bold, body_size, red, LEFT + 6, d->y - 11, f->check->id);
    put_text(d, d->regular, body_size, ink, LEFT + 86, d->y - 11, f->check->message);
    put_right(d, d->regular, small_size, grey, RIGHT - 8, d->y - 11,
              sec_risk_names[f->check->risk]);
    d->y -= ROW;
}

static void
put_failures(struct doc *d)
{
    enum { HEADING = 46 };
    struct sec_summary s;
    sec_summarize(d->report, &s);
    if (s.n[SEC_FAIL] == 0)
        return;
    keep_together(d, HEADING);
    put_heading(d, "To be done: what should be so and is not");
    for (int risk = SEC_N_RISKS - 1; risk >= 0; risk--)
        for (size_t i = 0; i < d->report->n; i++) {
            const struct sec_finding *f = &d->report->findings[i];
            if (f->status == SEC_FAIL && has_risk(f, risk))
                put_failure(d, f);
        }
}

/* ---- findings ---- */

static void
put_badge(struct doc *d, const struct sec_finding *f)
{
    static const char *const words[SEC_N_STATUSES] = { "UNKNOWN", "PASS", "FAIL" };
    enum { HEIGHT = 14 };
    HPDF_RGBColor text = f->status == SEC_FAIL ? white : f->status == SEC_PASS ? green : ink;
    float y = d->y - HEIGHT;
    if (f->status != SEC_PASS)
        fill_box(d, f->status == SEC_FAIL ? red : pale, LEFT, y, BADGE_WIDTH, HEIGHT);
    draw_box(d,
             f->status == SEC_FAIL   ? red
             : f->status == SEC_PASS ? green
                                     : grey,
             LEFT, y, BADGE_WIDTH, HEIGHT);
    float width = width_of(d, d->bold, small_size, words[f->status]);
    put_text(d, d->bold, small_size, text, LEFT + (BADGE_WIDTH - width) / 2, y + 4.3f,
             words[f->status]);
}

static float
put_part(struct doc *d, bool draw, float y, const char *label, const char *text)
{
    float x = TEXT_LEFT + LABEL_WIDTH;
    if (draw)
        put_text(d, d->regular, small_size, grey, TEXT_LEFT, y - body_size, label);
    return 1.5f + put_wrapped(d, draw, d->regular, body_size, ink, x, y, RIGHT - x, text);
}

/* What to do, of what failed; returns the height. */
static float
put_remedy(struct doc *d, bool draw, float y, const struct sec_check *check)
{
    char text[160] = "none: it is done on the device itself";
    float top = y;
    if (check->operation)
        (void)snprintf(text, sizeof(text), "%s (%s)", sec_route(check->operation),
                       check->operation); /* fits */
    y -= put_part(d, draw, y, "Remedy", check->remedy);
    return top - y + put_part(d, draw, y, "API", text);
}

/* Below the badge's top; returns the height. */
static float
put_finding(struct doc *d, bool draw, const struct sec_finding *f)
{
    char since[CLOCK_TEXT_SIZE], text[96];
    float y = d->y;
    clock_format(f->since_s * 1000000, 0, since);
    (void)snprintf(text, sizeof(text), "%s  ·  %s risk  ·  %s since %.10s", f->check->id,
                   sec_risk_names[f->check->risk], sec_status_names[f->status],
                   since); /* fits */
    if (draw)
        put_badge(d, f);
    y -= 1.5f + put_wrapped(d, draw, d->bold, body_size + 0.5f, ink, TEXT_LEFT, y,
                            RIGHT - TEXT_LEFT, f->check->message);
    y -= 2 + put_wrapped(d, draw, d->regular, small_size, grey, TEXT_LEFT, y, RIGHT - TEXT_LEFT,
                         text);
    y -= put_part(d, draw, y, "Evidence", f->evidence);
    if (f->status == SEC_FAIL)
        y -= put_remedy(d, draw, y, f->check);
    return d->y - y + 11;
}

/* The order within a group: by risk, and what failed first. */
static bool
is_turn(const struct sec_finding *f, int group, int risk, int status)
{
    return (int)f->check->group == group && (int)f->check->risk == risk &&
           (int)f->status == status;
}

static void
put_group(struct doc *d, int group)
{
    static const int order[SEC_N_STATUSES] = { SEC_FAIL, SEC_UNKNOWN, SEC_PASS };
    enum { HEADING = 46 };
    bool is_first = true;
    for (int risk = SEC_N_RISKS - 1; risk >= 0; risk--)
        for (size_t s = 0; s < ARRAY_LEN(order); s++)
            for (size_t i = 0; i < d->report->n; i++) {
                const struct sec_finding *f = &d->report->findings[i];
                if (!is_turn(f, group, risk, order[s]))
                    continue;
                float height = put_finding(d, false, f);
                keep_together(d, height + (is_first ? HEADING : 0));
                if (is_first)
                    put_heading(d, sec_group_titles[group]);
                is_first = false;
                put_finding(d, true, f);
                d->y -= height;
            }
}

/* ---- the document ---- */

/*
 * Which characters the codes of a font are, for who copies or searches text:
 * they are Unicode. libharu writes it as a map of another kind, which readers
 * complain about.
 */
static void
map_characters(struct doc *d, HPDF_Font font)
{
    static const char head[] = "/CIDInit /ProcSet findresource begin\n12 dict begin\n"
                               "begincmap\n/CIDSystemInfo << /Registry (Adobe) /Ordering (UCS)"
                               " /Supplement 0 >> def\n/CMapName /Adobe-Identity-UCS def\n"
                               "/CMapType 2 def\n1 begincodespacerange\n<0000> <FFFF>\n"
                               "endcodespacerange\n";
    static const char tail[] =
        "endcmap\nCMapName currentdict /CMap defineresource pop\nend\nend\n";
    enum { N_RANGES = 256, AT_ONCE = 64 }; /* of 256 codes; a list has at most 100 */
    HPDF_Dict map = d->error ? NULL : HPDF_Dict_GetItem(font, "ToUnicode", HPDF_OCLASS_DICT);
    if (!map)
        return;
    HPDF_MemStream_FreeData(map->stream);
    HPDF_Stream_WriteStr(map->stream, head);
    for (unsigned i = 0; i < N_RANGES && !d->error; i++) {
        char line[64];
        (void)snprintf(line, sizeof(line), "%s<%02X00> <%02XFF> <%02X00>\n%s",
                       i % AT_ONCE == 0 ? "64 beginbfrange\n" : "", i, i, i,
                       i % AT_ONCE == AT_ONCE - 1 ? "endbfrange\n" : ""); /* fits */
        HPDF_Stream_WriteStr(map->stream, line);
    }
    HPDF_Stream_WriteStr(map->stream, tail);
}

static void
load_fonts(struct doc *d)
{
    HPDF_UseUTFEncodings(d->pdf);
    HPDF_SetCurrentEncoder(d->pdf, "UTF-8");
    const char *regular = HPDF_LoadTTFontFromFile(d->pdf, regular_path, HPDF_TRUE);
    const char *bold = d->error ? NULL : HPDF_LoadTTFontFromFile(d->pdf, bold_path, HPDF_TRUE);
    if (d->error || !regular || !bold)
        return;
    d->regular = HPDF_GetFont(d->pdf, regular, "UTF-8");
    d->bold = d->error ? NULL : HPDF_GetFont(d->pdf, bold, "UTF-8");
    map_characters(d, d->regular);
    map_characters(d, d->bold);
}

static void
set_info(struct doc *d)
{
    time_t at_s = (time_t)d->report->at_s;
    struct tm at;
    if (gmtime_r(&at_s, &at)) {
        const HPDF_Date date = {
            at.tm_year + 1900, at.tm_mon + 1, at.tm_mday, at.tm_hour, at.tm_min,
            at.tm_sec,         'Z',           0,          0
        };
        HPDF_SetInfoDateAttr(d->pdf, HPDF_INFO_CREATION_DATE, date);
    }
    HPDF_SetInfoAttr(d->pdf, HPDF_INFO_TITLE, "Security report");
    HPDF_SetInfoAttr(d->pdf, HPDF_INFO_AUTHOR, "Fieldgate");
    HPDF_SetInfoAttr(d->pdf, HPDF_INFO_SUBJECT, d->date);
}

static void
write_all(struct doc *d)
{
    char at[CLOCK_TEXT_SIZE];
    clock_format(d->report->at_s * 1000000, 0, at);
    (void)snprintf(d->date, sizeof(d->date), "%.10s %.8s UTC", at, at + 11); /* fits */
    HPDF_SetCompressionMode(d->pdf, HPDF_COMP_ALL);
    load_fonts(d);
    if (d->error)
        return;
    set_info(d);
    new_page(d);
    put_cover(d);
    put_summary(d);
    put_failures(d);
    for (int g = 0; g < SEC_N_GROUPS; g++)
        put_group(d, g);
    put_frames(d);
    if (!d->error)
        HPDF_SaveToStream(d->pdf);
}

static void
take_bytes(struct doc *d, struct buf *out)
{
    HPDF_UINT32 size = HPDF_GetStreamSize(d->pdf);
    char *to = buf_reserve(out, size);
    if (!to) {
        d->error = out->err;
        return;
    }
    HPDF_ResetStream(d->pdf);
    HPDF_ReadFromStream(d->pdf, (HPDF_BYTE *)to, &size);
    if (!d->error)
        out->len += size;
}

int
sec_pdf(const struct sec_report *report, struct buf *out)
{
    struct doc d = { .report = report };
    if (access(regular_path, R_OK) < 0 || access(bold_path, R_OK) < 0)
        return -ENOENT;
    d.pdf = HPDF_NewEx(on_error, allocate, release, 0, &d);
    if (!d.pdf)
        return -ENOMEM;
    write_all(&d);
    if (!d.error)
        take_bytes(&d, out);
    HPDF_Free(d.pdf);
    return d.error;
}
