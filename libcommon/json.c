/*
 * JSON in and out.
 *
 * In: one scan checks everything that cJSON lets pass (grammar, UTF-8, lone
 * surrogates, U+0000, depth, number of values, repeated names, trailing text)
 * and blanks each number out of a copy ("12.50" becomes "0    "), noting where
 * it was. cJSON then builds the tree from the copy, and a walk in document
 * order gives each number item its text. So no number ever passes through a
 * double, and its length has no limit of cJSON's.
 */
#include "libcommon/json.h"

#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <pthread.h>
#include <string.h>
#include <sys/random.h>

#include <cjson/cJSON.h>

#include "libcommon/str.h"

#include "libcommon/banned.h"

/* ---- names of the open objects ---- */

/* A member's name as it stands in the text, without its quotes. */
struct name {
    uint64_t hash; /* of the decoded bytes */
    uint32_t at;
    uint32_t len;
    bool escaped;
};

/* A bracket that is open. */
struct level {
    char bracket;
    size_t first_name; /* of its names in scan.names */
    uint32_t *table;   /* open addressing, name index + 1; NULL while it has few names */
    size_t table_size; /* power of two */
};

/* A number that was blanked out. */
struct number {
    uint32_t at;
    uint32_t len;
};

enum { LINEAR_NAMES = 12, FIRST_NAMES = 64, FIRST_NUMBERS = 64 };

struct scan {
    const char *text;
    size_t len;
    size_t at;
    char *copy; /* NULL: only checking */
    size_t n_values;

    struct level levels[JSON_DEPTH_MAX];
    size_t depth;

    struct name *names; /* of all open objects, innermost last */
    size_t n_names, cap_names;
    struct name first_names[FIRST_NAMES];

    struct number *numbers;
    size_t n_numbers, cap_numbers;
    struct number first_numbers[FIRST_NUMBERS];

    struct json_error *error;
};

static void
scan_done(struct scan *s)
{
    for (size_t i = 0; i < s->depth; i++)
        free(s->levels[i].table);
    if (s->names != s->first_names)
        free(s->names);
    if (s->numbers != s->first_numbers)
        free(s->numbers);
}

static int
scan_fail_at(struct scan *s, size_t at, int error, const char *reason)
{
    s->error->at = at;
    (void)str_copy(s->error->reason, sizeof(s->error->reason), reason); /* ours, they fit */
    return error;
}

static int
scan_fail(struct scan *s, const char *reason)
{
    if (s->at >= s->len)
        return scan_fail_at(s, s->len, -EINVAL, "text ends too early");
    return scan_fail_at(s, s->at, -EINVAL, reason);
}

/* Random per process, so that nobody can prepare names that fall together. */
static uint64_t hash_secret[2];
static pthread_once_t hash_secret_once = PTHREAD_ONCE_INIT;

static void
make_hash_secret(void)
{
    if (getrandom(hash_secret, sizeof(hash_secret), GRND_NONBLOCK) < 0) {
        /* Only before the kernel has entropy; an address is better than nothing. */
        hash_secret[0] = (uintptr_t)&hash_secret;
        hash_secret[1] = (uintptr_t)__builtin_frame_address(0);
    }
    hash_secret[0] |= 1;
    hash_secret[1] |= 1;
}

static uint64_t
mix(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 product = (unsigned __int128)a * b;
    return (uint64_t)product ^ (uint64_t)(product >> 64);
}

static uint64_t
hash_bytes(const char *p, size_t n)
{
    uint64_t h = mix(n ^ hash_secret[0], hash_secret[1]);
    uint64_t word;
    for (; n >= sizeof(word); p += sizeof(word), n -= sizeof(word)) {
        memcpy(&word, p, sizeof(word));
        h = mix(h ^ word, hash_secret[1]);
    }
    if (n > 0) {
        word = 0;
        memcpy(&word, p, n);
        h = mix(h ^ word, hash_secret[1]);
    }
    return mix(h ^ hash_secret[0], hash_secret[0] ^ hash_secret[1]);
}

static unsigned
hex4(const char *p)
{
    uint8_t two[2] = { 0, 0 };
    (void)hex_decode(p, 4, two, sizeof(two)); /* the scan has checked the digits */
    return get_u16(two);
}

/* The bytes that a checked name stands for, at most name->len; returns their number. */
static size_t
name_decode(const struct scan *s, const struct name *name, char *out)
{
    const char *p = s->text + name->at;
    const char *end = p + name->len;
    char *o = out;

    while (p < end) {
        if (*p != '\\') {
            *o++ = *p++;
            continue;
        }
        static const char from[] = "\"\\/bfnrt", to[] = "\"\\/\b\f\n\r\t";
        const char *simple = strchr(from, p[1]);
        if (simple != NULL) {
            *o++ = to[simple - from];
            p += 2;
            continue;
        }
        uint32_t c = hex4(p + 2);
        p += 6;
        if (c >= 0xD800 && c <= 0xDBFF) {
            c = 0x10000 + ((c - 0xD800) << 10) + (hex4(p + 2) - 0xDC00);
            p += 6;
        }
        if (c < 0x80) {
            *o++ = (char)c;
        } else if (c < 0x800) {
            *o++ = (char)(0xC0 | c >> 6);
            *o++ = (char)(0x80 | (c & 0x3F));
        } else if (c < 0x10000) {
            *o++ = (char)(0xE0 | c >> 12);
            *o++ = (char)(0x80 | (c >> 6 & 0x3F));
            *o++ = (char)(0x80 | (c & 0x3F));
        } else {
            *o++ = (char)(0xF0 | c >> 18);
            *o++ = (char)(0x80 | (c >> 12 & 0x3F));
            *o++ = (char)(0x80 | (c >> 6 & 0x3F));
            *o++ = (char)(0x80 | (c & 0x3F));
        }
    }
    return (size_t)(o - out);
}

/* 1 equal, 0 not, or -ENOMEM. */
static int
name_equal(const struct scan *s, const struct name *a, const struct name *b)
{
    if (a->hash != b->hash)
        return 0;
    if (!a->escaped && !b->escaped)
        return a->len == b->len && memcmp(s->text + a->at, s->text + b->at, a->len) == 0;

    char *both = malloc((size_t)a->len + b->len + 1);
    if (both == NULL)
        return -ENOMEM;
    size_t a_len = name_decode(s, a, both);
    size_t b_len = name_decode(s, b, both + a_len);
    bool equal = a_len == b_len && memcmp(both, both + a_len, a_len) == 0;
    free(both);
    return equal;
}

/* 1 when 'name' is in the level's table; 0 with its place there if not; or -ENOMEM. */
static int
table_find(const struct scan *s, const struct level *l, const struct name *name, size_t *ret_at)
{
    size_t mask = l->table_size - 1;
    size_t i = name->hash & mask;
    for (; l->table[i] != 0; i = (i + 1) & mask) {
        int r = name_equal(s, &s->names[l->table[i] - 1], name);
        if (r != 0)
            return r;
    }
    *ret_at = i;
    return 0;
}

/* A table with room for twice the level's names, filled with those that are known to differ. */
static int
table_grow(const struct scan *s, struct level *l)
{
    size_t size = l->table_size == 0 ? 4 * LINEAR_NAMES : 2 * l->table_size;
    while ((size & (size - 1)) != 0)
        size++;
    uint32_t *table = calloc(size, sizeof(*table));
    if (table == NULL)
        return -ENOMEM;
    for (size_t n = l->first_name; n < s->n_names; n++) {
        size_t i = s->names[n].hash & (size - 1);
        while (table[i] != 0)
            i = (i + 1) & (size - 1);
        table[i] = (uint32_t)n + 1;
    }
    free(l->table);
    l->table = table;
    l->table_size = size;
    return 0;
}

/* Doubles an array that begins in 'first'. */
static int
grow_array(void **array, const void *first, size_t *cap, size_t element_size)
{
    size_t bytes = *cap * element_size;
    void *bigger = realloc(*array == first ? NULL : *array, 2 * bytes);
    if (bigger == NULL)
        return -ENOMEM;
    if (*array == first)
        memcpy(bigger, first, bytes);
    *array = bigger;
    *cap *= 2;
    return 0;
}

/* Adds the name of a member to the innermost object. */
static int
scan_add_name(struct scan *s, struct name *name)
{
    struct level *l = &s->levels[s->depth - 1];
    size_t n_mine = s->n_names - l->first_name;
    size_t slot = 0;
    int r = 0;

    if (!name->escaped) {
        name->hash = hash_bytes(s->text + name->at, name->len);
    } else {
        CLEANUP(freep) char *decoded = malloc((size_t)name->len + 1);
        if (decoded == NULL)
            return -ENOMEM;
        size_t n = name_decode(s, name, decoded);
        name->hash = hash_bytes(decoded, n);
    }

    if (n_mine >= LINEAR_NAMES && 2 * (n_mine + 1) > l->table_size)
        r = table_grow(s, l);
    if (r == 0 && l->table != NULL)
        r = table_find(s, l, name, &slot);
    else
        for (size_t i = l->first_name; r == 0 && i < s->n_names; i++)
            r = name_equal(s, &s->names[i], name);
    if (r == 0 && s->n_names == s->cap_names) {
        void *names = s->names;
        r = grow_array(&names, s->first_names, &s->cap_names, sizeof(*s->names));
        s->names = names;
    }
    if (r < 0)
        return r;
    if (r > 0)
        return scan_fail_at(s, name->at, -EINVAL, "name appears twice in one object");

    s->names[s->n_names++] = *name;
    if (l->table != NULL)
        l->table[slot] = (uint32_t)s->n_names; /* index + 1 */
    return 0;
}

/* ---- the scan ---- */

/* Bytes of a string that need no look: everything but '"', '\\', controls and >= 0x80. */
static const bool plain[256] = { [0x20 ... 0x21] = true,
                                 [0x23 ... 0x5B] = true,
                                 [0x5D ... 0x7F] = true };

static inline bool
scan_digit(const struct scan *s)
{
    return s->at < s->len && s->text[s->at] >= '0' && s->text[s->at] <= '9';
}

static inline void
scan_space(struct scan *s)
{
    while (s->at < s->len) {
        char c = s->text[s->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t')
            return;
        s->at++;
    }
}

static bool
is_hex(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
}

/* At the backslash of \uXXXX; leaves s->at at the first byte after it. */
static int
scan_hex4(struct scan *s, unsigned *ret_unit)
{
    if (s->len - s->at < 6) {
        s->at = s->len;
        return scan_fail(s, "");
    }
    for (size_t i = 2; i < 6; i++)
        if (!is_hex(s->text[s->at + i]))
            return scan_fail(s, "\\u needs four hexadecimal digits");
    *ret_unit = hex4(s->text + s->at + 2);
    s->at += 6;
    return 0;
}

static int
scan_escape(struct scan *s)
{
    size_t start = s->at;
    if (s->len - s->at < 2) {
        s->at = s->len;
        return scan_fail(s, "");
    }
    char c = s->text[s->at + 1];
    if (c != 'u') {
        if (c == '\0' || strchr("\"\\/bfnrt", c) == NULL)
            return scan_fail(s, "unknown escape");
        s->at += 2;
        return 0;
    }

    unsigned unit = 0;
    int r = scan_hex4(s, &unit);
    if (r < 0)
        return r;
    if (unit == 0)
        return scan_fail_at(s, start, -EINVAL, "U+0000 is not accepted");
    if (unit >= 0xDC00 && unit <= 0xDFFF)
        return scan_fail_at(s, start, -EINVAL, "lone surrogate");
    if (unit < 0xD800 || unit > 0xDFFF)
        return 0;
    if (s->at + 1 >= s->len || s->text[s->at] != '\\' || s->text[s->at + 1] != 'u')
        return scan_fail_at(s, start, -EINVAL, "lone surrogate");
    r = scan_hex4(s, &unit);
    if (r < 0)
        return r;
    if (unit < 0xDC00 || unit > 0xDFFF)
        return scan_fail_at(s, start, -EINVAL, "lone surrogate");
    return 0;
}

/* Bytes of the well-formed character beyond ASCII at 'p', of 'n' at hand; 0: ill-formed. */
static size_t
utf8_length(const char *p, size_t n)
{
    uint8_t c = (uint8_t)*p;
    size_t want = c >= 0xF0 ? 4 : c >= 0xE0 ? 3 : 2;
    return want <= n && utf8_valid(p, want) ? want : 0;
}

/* At the opening quote; leaves s->at after the closing one. */
static int
scan_string(struct scan *s, struct name *ret_name)
{
    const char *text = s->text;
    size_t start = ++s->at;
    bool escaped = false;

    for (;;) {
        size_t at = s->at;
        while (at < s->len && plain[(uint8_t)text[at]])
            at++;
        s->at = at;
        if (at >= s->len)
            return scan_fail(s, "");
        char c = text[at];
        if (c == '"')
            break;
        if (c == '\\') {
            escaped = true;
            int r = scan_escape(s);
            if (r < 0)
                return r;
            continue;
        }
        if ((uint8_t)c < 0x20)
            return scan_fail(s, "control character in a string");
        size_t n = utf8_length(text + at, s->len - at);
        if (n == 0)
            return scan_fail(s, "not UTF-8");
        s->at += n;
    }
    if (ret_name != NULL)
        *ret_name = (struct name){ .at = (uint32_t)start,
                                   .len = (uint32_t)(s->at - start),
                                   .escaped = escaped };
    s->at++;
    return 0;
}

static int
scan_digits(struct scan *s)
{
    if (!scan_digit(s))
        return scan_fail(s, "digit expected");
    while (scan_digit(s))
        s->at++;
    return 0;
}

static int
scan_number(struct scan *s)
{
    size_t start = s->at;
    int r = 0;

    if (s->text[s->at] == '-')
        s->at++;
    if (scan_digit(s) && s->text[s->at] == '0')
        s->at++; /* a digit that follows is refused as what comes after a value */
    else
        r = scan_digits(s);
    if (r == 0 && s->at < s->len && s->text[s->at] == '.') {
        s->at++;
        r = scan_digits(s);
    }
    if (r == 0 && s->at < s->len && (s->text[s->at] == 'e' || s->text[s->at] == 'E')) {
        s->at++;
        if (s->at < s->len && (s->text[s->at] == '+' || s->text[s->at] == '-'))
            s->at++;
        r = scan_digits(s);
    }
    if (r < 0 || s->copy == NULL)
        return r;

    if (s->n_numbers == s->cap_numbers) {
        void *numbers = s->numbers;
        r = grow_array(&numbers, s->first_numbers, &s->cap_numbers, sizeof(*s->numbers));
        s->numbers = numbers;
        if (r < 0)
            return r;
    }
    size_t len = s->at - start;
    s->numbers[s->n_numbers++] = (struct number){ .at = (uint32_t)start, .len = (uint32_t)len };
    s->copy[start] = '0';
    if (len > 1)
        memset(s->copy + start + 1, ' ', len - 1);
    return 0;
}

static int
scan_word(struct scan *s, const char *word, size_t len)
{
    if (s->len - s->at < len || memcmp(s->text + s->at, word, len) != 0)
        return scan_fail_at(s, s->at, -EINVAL, "value expected");
    s->at += len;
    return 0;
}

static int
scan_open(struct scan *s, char bracket)
{
    if (s->depth == JSON_DEPTH_MAX)
        return scan_fail_at(s, s->at, -E2BIG, "too deep");
    s->levels[s->depth++] = (struct level){ .bracket = bracket, .first_name = s->n_names };
    s->at++;
    return 0;
}

static void
scan_close(struct scan *s)
{
    struct level *l = &s->levels[--s->depth];
    free(l->table);
    s->n_names = l->first_name;
    s->at++;
}

/* At a member's name; leaves s->at after the colon. */
static int
scan_name(struct scan *s)
{
    struct name name = { 0 };

    if (s->at >= s->len || s->text[s->at] != '"')
        return scan_fail(s, "name expected");
    int r = scan_string(s, &name);
    if (r == 0)
        r = scan_add_name(s, &name);
    if (r < 0)
        return r;
    scan_space(s);
    if (s->at >= s->len || s->text[s->at] != ':')
        return scan_fail(s, "':' expected");
    s->at++;
    return 0;
}

enum { VALUE_WHOLE, VALUE_OPENED };

/* One value, or the opening bracket of one. VALUE_WHOLE, VALUE_OPENED or -errno. */
static int
scan_value(struct scan *s)
{
    scan_space(s);
    if (s->at >= s->len)
        return scan_fail(s, "");
    if (++s->n_values > JSON_VALUES_MAX)
        return scan_fail_at(s, s->at, -E2BIG, "too many values");

    char c = s->text[s->at];
    switch (c) {
    case '{':
    case '[': {
        int r = scan_open(s, c);
        return r < 0 ? r : VALUE_OPENED;
    }
    case '"':
        return scan_string(s, NULL);
    case 't':
        return scan_word(s, "true", 4);
    case 'f':
        return scan_word(s, "false", 5);
    case 'n':
        return scan_word(s, "null", 4);
    case '-':
    case '0' ... '9':
        return scan_number(s);
    default:
        return scan_fail(s, "value expected");
    }
}

/* After a value: closes what closes. True in *ret_more when another value must follow. */
static int
scan_after(struct scan *s, bool *ret_more)
{
    *ret_more = false;
    while (s->depth > 0) {
        char bracket = s->levels[s->depth - 1].bracket;
        char closing = bracket == '{' ? '}' : ']';
        scan_space(s);
        char c = s->at < s->len ? s->text[s->at] : '\0';
        if (c == ',') {
            s->at++;
            scan_space(s);
            *ret_more = true;
            return bracket == '{' ? scan_name(s) : 0;
        }
        if (c != closing)
            return scan_fail(s, bracket == '{' ? "',' or '}' expected" : "',' or ']' expected");
        scan_close(s);
    }
    return 0;
}

/* After an opening bracket: an empty one closes at once; else a value must follow. */
static int
scan_inside(struct scan *s, bool *ret_more)
{
    char bracket = s->levels[s->depth - 1].bracket;
    scan_space(s);
    char c = s->at < s->len ? s->text[s->at] : '\0';
    if (c == (bracket == '{' ? '}' : ']')) {
        scan_close(s);
        return scan_after(s, ret_more);
    }
    *ret_more = true;
    return bracket == '{' ? scan_name(s) : 0;
}

static int
scan_text(struct scan *s)
{
    bool more = true;
    while (more) {
        int r = scan_value(s);
        if (r == VALUE_OPENED)
            r = scan_inside(s, &more);
        else if (r == VALUE_WHOLE)
            r = scan_after(s, &more);
        if (r < 0)
            return r;
    }
    scan_space(s);
    if (s->at < s->len)
        return scan_fail(s, "text after the value");
    return 0;
}

static int
scan_init(struct scan *s, const char *text, size_t len, char *copy, struct json_error *error)
{
    (void)pthread_once(&hash_secret_once, make_hash_secret); /* cannot fail */
    s->text = text;
    s->len = len;
    s->at = 0;
    s->copy = copy;
    s->n_values = 0;
    s->depth = 0;
    s->names = s->first_names;
    s->n_names = 0;
    s->cap_names = FIRST_NAMES;
    s->numbers = s->first_numbers;
    s->n_numbers = 0;
    s->cap_numbers = FIRST_NUMBERS;
    s->error = error;
    if (len > UINT32_MAX)
        return scan_fail_at(s, 0, -E2BIG, "too long");
    return 0;
}

int
json_check(const char *text, size_t len, struct json_error *ret_error)
{
    struct scan s;
    int r = scan_init(&s, text, len, NULL, ret_error);
    if (r == 0)
        r = scan_text(&s);
    scan_done(&s);
    return r;
}

/* ---- the tree ---- */

/* Gives the number items of 'item' and what follows and hangs below it their texts. */
static int
restore_numbers(const struct scan *s, cJSON *item, size_t *next)
{
    for (; item != NULL; item = item->next) {
        if (item->type == cJSON_Number) {
            MUST(*next < s->n_numbers); /* cJSON sees the numbers that the scan saw */
            const struct number *number = &s->numbers[(*next)++];
            char *text = cJSON_malloc((size_t)number->len + 1);
            if (text == NULL)
                return -ENOMEM;
            memcpy(text, s->text + number->at, number->len);
            text[number->len] = '\0';
            item->valuestring = text;
            item->type = cJSON_Raw;
        } else if (item->child != NULL) {
            int r = restore_numbers(s, item->child, next); /* at most JSON_DEPTH_MAX deep */
            if (r < 0)
                return r;
        }
    }
    return 0;
}

int
json_parse(const char *text, size_t len, struct cJSON **ret_tree, struct json_error *ret_error)
{
    char *copy = malloc(len + 1);
    CLEANUP(json_freep) cJSON *tree = NULL;
    struct scan s;

    if (copy == NULL)
        return -ENOMEM;
    if (len > 0)
        memcpy(copy, text, len);
    copy[len] = '\0';
    int r = scan_init(&s, text, len, copy, ret_error);
    if (r == 0)
        r = scan_text(&s);
    if (r == 0) {
        /*
         * It notes where it failed in a static variable, without a lock and
         * from whichever thread parses: a data race by the letter, but only
         * cJSON_GetErrorPtr reads that, which banned.h keeps out.
         */
        tree = cJSON_ParseWithLengthOpts(copy, len + 1, NULL, true);
        size_t next = 0;
        /* After our scan the only thing that can go wrong there is memory. */
        r = tree == NULL ? -ENOMEM : restore_numbers(&s, tree, &next);
        if (r == 0)
            MUST(next == s.n_numbers);
    }
    scan_done(&s);
    free(copy);
    if (r == 0)
        *ret_tree = MOVE_PTR(tree);
    return r;
}

void
json_free(struct cJSON *tree)
{
    cJSON_Delete(tree);
}

void
json_freep(struct cJSON **tree)
{
    json_free(*tree);
}

static int
kind(const cJSON *item)
{
    return item == NULL ? cJSON_Invalid : item->type & 0xFF;
}

const struct cJSON *
json_get(const struct cJSON *object, const char *name)
{
    if (kind(object) != cJSON_Object)
        return NULL;
    for (const cJSON *item = object->child; item != NULL; item = item->next)
        if (str_eq(item->string, name))
            return item;
    return NULL;
}

const char *
json_text(const struct cJSON *item)
{
    return kind(item) == cJSON_String ? item->valuestring : NULL;
}

const char *
json_number(const struct cJSON *item)
{
    if (kind(item) != cJSON_Raw)
        return NULL;
    const char *text = item->valuestring;
    return *text == '-' || (*text >= '0' && *text <= '9') ? text : NULL;
}

int
json_i64(const struct cJSON *item, int64_t *ret_value)
{
    const char *text = json_number(item);
    if (text == NULL || parse_i64(text, INT64_MIN, INT64_MAX, ret_value) < 0)
        return -EINVAL;
    return 0;
}

int
json_u64(const struct cJSON *item, uint64_t *ret_value)
{
    const char *text = json_number(item);
    if (text == NULL)
        return -EINVAL;
    if (str_eq(text, "-0"))
        text++;
    if (parse_u64(text, 0, UINT64_MAX, ret_value) < 0)
        return -EINVAL;
    return 0;
}

/* ---- the writer ---- */

/* White space comes from a frame around the text (an event stream's), never from a value. */
static void
jw_sep(struct buf *b)
{
    char last = b->len == 0 ? '[' : b->data[b->len - 1];
    if (last != '{' && last != '[' && last != ':' && last != ' ' && last != '\n')
        buf_putc(b, ',');
}

void
jw_open(struct buf *b, char bracket)
{
    jw_sep(b);
    buf_putc(b, bracket);
}

void
jw_close(struct buf *b, char bracket)
{
    buf_putc(b, bracket);
}

static void
put_control(struct buf *b, uint8_t c)
{
    static const char letters[] = "\bb\tt\nn\ff\rr";
    for (size_t i = 0; i < sizeof(letters) - 1; i += 2) {
        if ((uint8_t)letters[i] == c) {
            char two[2] = { '\\', letters[i + 1] };
            buf_put(b, two, 2);
            return;
        }
    }
    buf_printf(b, "\\u%04x", c);
}

/* A quoted string, without what jw_sep does. */
static void
put_string(struct buf *b, const char *text, size_t len)
{
    size_t at = 0, from = 0;

    buf_putc(b, '"');
    while (at < len) {
        uint8_t c = (uint8_t)text[at];
        if (plain[c]) {
            at++;
            continue;
        }
        if (c >= 0x80) {
            size_t n = utf8_length(text + at, len - at);
            if (n > 0) {
                at += n;
                continue;
            }
        }
        buf_put(b, text + from, at - from);
        if (c >= 0x80) {
            buf_put(b, "\xEF\xBF\xBD", 3);
        } else if (c < 0x20) {
            put_control(b, c);
        } else {
            char two[2] = { '\\', (char)c };
            buf_put(b, two, 2);
        }
        from = ++at;
    }
    buf_put(b, text + from, len - from);
    buf_putc(b, '"');
}

void
jw_name(struct buf *b, const char *name)
{
    jw_sep(b);
    put_string(b, name, strlen(name));
    buf_putc(b, ':');
}

void
jw_strn(struct buf *b, const char *text, size_t len)
{
    jw_sep(b);
    put_string(b, text, len);
}

void
jw_str(struct buf *b, const char *text)
{
    if (text == NULL)
        jw_null(b);
    else
        jw_strn(b, text, strlen(text));
}

enum { INTEGER_SIZE = 24 };

/* Decimal text that ends at 'end' (no terminator); returns its start. */
static char *
integer_text(char *end, bool negative, uint64_t magnitude)
{
    char *p = end;
    do
        *--p = (char)('0' + magnitude % 10);
    while ((magnitude /= 10) != 0);
    if (negative)
        *--p = '-';
    return p;
}

void
jw_u64(struct buf *b, uint64_t v)
{
    char text[INTEGER_SIZE];
    char *end = text + sizeof(text);
    char *p = integer_text(end, false, v);
    jw_sep(b);
    buf_put(b, p, (size_t)(end - p));
}

void
jw_i64(struct buf *b, int64_t v)
{
    char text[INTEGER_SIZE];
    char *end = text + sizeof(text);
    char *p = integer_text(end, v < 0, v < 0 ? 0 - (uint64_t)v : (uint64_t)v);
    jw_sep(b);
    buf_put(b, p, (size_t)(end - p));
}

static bool
reads_back(const char *text, double v, bool as_float)
{
    if (as_float)
        return strtof(text, NULL) == (float)v;
    return strtod(text, NULL) == v;
}

/* The C library's digits, as few as read back, in any locale of the program. */
static void
put_real_slowly(struct buf *b, double v, bool as_float)
{
    char text[40];
    locale_t c = str_c_locale();
    locale_t old = c == (locale_t)0 ? (locale_t)0 : uselocale(c);
    int digits = as_float ? 6 : 15, most = as_float ? 9 : 17;
    do
        (void)snprintf(text, sizeof(text), "%.*g", digits, v); /* 24 characters at most */
    while (!reads_back(text, v, as_float) && digits++ < most);
    if (old != (locale_t)0)
        (void)uselocale(old);
    buf_puts(b, text);
}

/*
 * Does m / 10^k (at most 15 digits) read back as v? A double: the quotient of
 * two exact doubles is rounded once, as reading the text is. A float: reading
 * rounds once and the cast here would be a second time, so the neighbourhood
 * of the quotient must agree.
 */
static bool
decimal_reads_back(double m, double power, double v, bool as_float)
{
    double quotient = m / power;
    if (!as_float)
        return quotient == v;
    return (float)(quotient * (1 - 0x1p-50)) == (float)v &&
           (float)(quotient * (1 + 0x1p-50)) == (float)v;
}

/*
 * What plants measure, 23.5 or 0.125, without the C library: the fewest
 * decimals, up to 6, that read back. False when that does not do.
 */
static bool
put_real_quickly(struct buf *b, double v, bool as_float)
{
    static const double powers[] = { 1, 10, 100, 1000, 10000, 100000, 1000000 };
    double magnitude = fabs(v);
    double limit = as_float ? 1e6 : 1e15; /* below, so few digits are always unambiguous */
    double integer_limit = as_float ? 0x1p24 : 1e15;

    if (magnitude >= integer_limit || magnitude < 1e-4)
        return false;
    for (int k = 0; k < (int)ARRAY_LEN(powers); k++) {
        double m = nearbyint(magnitude * powers[k]);
        if (m != magnitude && m >= limit)
            return false;
        if (!decimal_reads_back(m, powers[k], magnitude, as_float))
            continue;

        char text[INTEGER_SIZE];
        char *end = text + sizeof(text);
        uint64_t digits = (uint64_t)m;
        char *p = end;
        for (int i = 0; i < k; i++, digits /= 10)
            *--p = (char)('0' + digits % 10);
        if (k > 0)
            *--p = '.';
        p = integer_text(p, v < 0, digits);
        buf_put(b, p, (size_t)(end - p));
        return true;
    }
    return false;
}

static void
put_real(struct buf *b, double v, bool as_float)
{
    if (!isfinite(v)) {
        jw_null(b);
        return;
    }
    jw_sep(b);
    if (v == 0)
        buf_puts(b, signbit(v) ? "-0" : "0");
    else if (!put_real_quickly(b, v, as_float))
        put_real_slowly(b, v, as_float);
}

void
jw_double(struct buf *b, double v)
{
    put_real(b, v, false);
}

void
jw_float(struct buf *b, float v)
{
    put_real(b, (double)v, true);
}

void
jw_bool(struct buf *b, bool v)
{
    jw_sep(b);
    buf_puts(b, v ? "true" : "false");
}

void
jw_null(struct buf *b)
{
    jw_sep(b);
    buf_put(b, "null", 4);
}

void
jw_raw(struct buf *b, const char *json, size_t len)
{
    while (len > 0 && strchr(" \t\r\n", json[len - 1]) != NULL)
        len--;
    jw_sep(b);
    buf_put(b, json, len);
}

void
jw_kstr(struct buf *b, const char *name, const char *text)
{
    jw_name(b, name);
    jw_str(b, text);
}

void
jw_ki64(struct buf *b, const char *name, int64_t v)
{
    jw_name(b, name);
    jw_i64(b, v);
}

void
jw_ku64(struct buf *b, const char *name, uint64_t v)
{
    jw_name(b, name);
    jw_u64(b, v);
}

void
jw_kbool(struct buf *b, const char *name, bool v)
{
    jw_name(b, name);
    jw_bool(b, v);
}

/* Trees are ours or small; one that somebody built deeper than this is refused. */
enum { WRITE_DEPTH_MAX = 2 * JSON_DEPTH_MAX };

static void
put_tree(struct buf *b, const cJSON *item, int depth)
{
    int type = kind(item);
    bool object = type == cJSON_Object;

    if (b->err != 0)
        return;
    switch (type) {
    case cJSON_Object:
    case cJSON_Array:
        if (depth == WRITE_DEPTH_MAX) {
            b->err = -E2BIG;
            return;
        }
        jw_open(b, object ? '{' : '[');
        for (const cJSON *child = item->child; child != NULL; child = child->next) {
            if (object)
                jw_name(b, child->string);
            put_tree(b, child, depth + 1);
        }
        jw_close(b, object ? '}' : ']');
        return;
    case cJSON_String:
        jw_str(b, item->valuestring);
        return;
    case cJSON_Raw:
        jw_raw(b, item->valuestring, strlen(item->valuestring));
        return;
    case cJSON_Number:
        jw_double(b, item->valuedouble);
        return;
    case cJSON_True:
    case cJSON_False:
        jw_bool(b, type == cJSON_True);
        return;
    default:
        jw_null(b);
    }
}

void
jw_tree(struct buf *b, const struct cJSON *tree)
{
    put_tree(b, tree, 0);
}
