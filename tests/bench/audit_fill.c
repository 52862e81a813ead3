/*
 * The audit log's code without a daemon around it, and LMDB without that.
 *
 *   audit_fill fill DIR N BATCH     a store of N records, BATCH in a transaction
 *   audit_fill apart DIR N BATCH    the same, no two with the same message
 *   audit_fill copy DIR TO BATCH    the values of a store by bare LMDB
 *
 * Prints records a second.
 */
#include <errno.h>
#include <lmdb.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "libcommon/base.h"
#include "libcommon/clock.h"
#include "services/auditd/trail.h"

static void
must(int r, const char *what)
{
    if (r == 0)
        return;
    (void)fprintf(stderr, "audit_fill: %s: %d\n", what, r);
    exit(1);
}

static struct trail_text
text(const char *s)
{
    return (struct trail_text){ s, strlen(s) };
}

static const char *const words[] = { "pump", "valve", "boiler", "meter", "drive", "door" };

/* Messages of the product, with the names that it puts into them. */
static void
say(uint64_t i, const char *source, char *ret_message, size_t size)
{
    unsigned long long k = i * 2654435761u % 1000;
    switch (k % 7) {
    case 0:
        (void)snprintf(ret_message, size, "%s signed in", source);
        break;
    case 1:
        (void)snprintf(ret_message, size, "Account %s changed by %s", words[k % 6], source);
        break;
    case 2:
        (void)snprintf(ret_message, size, "Session %llu of account %llu ended by %s",
                       (unsigned long long)i, k % 23, source);
        break;
    case 3:
        (void)snprintf(ret_message, size, "message group %llu of MQTT client %llu changed",
                       k % 60, k % 9);
        break;
    case 4:
        (void)snprintf(ret_message, size, "Certificate %s-%llu of %s uploaded by %s",
                       words[k % 6], k % 40, words[k % 5], source);
        break;
    default:
        (void)snprintf(ret_message, size, "%s one of tags of commands",
                       k % 2 ? "Modify" : "Delete");
    }
}

/* Like those of a device that is in use: most are of a few events and accounts. */
static void
add(struct store_txn *txn, struct trail_state *state, uint64_t i, int64_t now_us, bool apart)
{
    char source[32], message[96], detail[160];
    const struct trail_event *event = &trail_events[i * 2654435761u % trail_n_events];
    (void)snprintf(source, sizeof(source), "account%llu", (unsigned long long)(i * 31 % 23));
    if (apart)
        (void)snprintf(message, sizeof(message), "Change of %s %llu by a request",
                       words[i % ARRAY_LEN(words)], (unsigned long long)i);
    else
        say(i, source, message, sizeof(message));
    (void)snprintf(detail, sizeof(detail),
                   "{\"path\":{\"id\":\"%llu\"},\"body\":{\"name\":\"%s\",\"enable\":true,"
                   "\"description\":\"line %llu of the plant\"}}",
                   (unsigned long long)(i % 1000), words[i / 7 % ARRAY_LEN(words)],
                   (unsigned long long)(i % 40));
    /* Several daemons deliver in batches: nearly in order of time. */
    const struct trail_record in = { .name = text(event->name),
                                     .daemon = text("modbusd"),
                                     .addr = text("192.168.127.20"),
                                     .source = text(source),
                                     .message = text(message),
                                     .detail = text(detail),
                                     .at_us =
                                         now_us + (int64_t)(i * 1000003 + i * 7919 % 5000003),
                                     .request_id = i + 1 };
    must(trail_append(txn, state, &in), "append");
}

static double
rate(uint64_t n, uint64_t took_us)
{
    return (double)n * 1e6 / (double)took_us;
}

/* auditd must not rotate what is measured. */
static void
keep_all(struct store *store)
{
    static const char setting[] = "{\"desiredDiskCacheSizeMB\":4096}";
    struct store_txn *txn;
    must(store_begin(store, &txn), "begin");
    must(store_put(txn, TRAIL_DB_CONFIG, "setting", strlen("setting"), setting,
                   sizeof(setting) - 1),
         "setting");
    must(store_commit(txn), "commit");
}

static void
fill(const char *dir, uint64_t n, uint64_t batch, bool apart)
{
    struct store *store;
    struct trail_state state = { .next_id = 1 };
    int64_t first_us = clock_wall_us() - (int64_t)n * 1000003;
    must(store_open(dir, trail_dbs, TRAIL_N_DBS, TRAIL_SCHEMA, trail_migrate, &store), "open");
    keep_all(store);
    uint64_t began_us = clock_mono_us();
    for (uint64_t i = 0; i < n;) {
        struct store_txn *txn;
        must(store_begin(store, &txn), "begin");
        for (uint64_t k = 0; k < batch && i < n; k++)
            add(txn, &state, i++, first_us, apart);
        must(store_commit(txn), "commit");
    }
    printf("%.0f\n", rate(n, clock_mono_us() - began_us));
    store_close(store);
}

static void
copy(const char *dir, const char *to, uint64_t batch)
{
    struct store *store;
    struct store_txn *view;
    struct store_iter it;
    MDB_env *env;
    MDB_dbi dbi;
    uint64_t n = 0;
    must(store_open(dir, trail_dbs, TRAIL_N_DBS, TRAIL_SCHEMA, trail_migrate, &store), "open");
    must(store_read(store, &view), "read");
    must(store_iter_init(&it, view, TRAIL_DB_RECORDS, NULL, 0, false), "iter");
    must(mkdir(to, 0700), "mkdir");
    must(mdb_env_create(&env), "env");
    must(mdb_env_set_mapsize(env, (size_t)4 << 30), "mapsize");
    must(mdb_env_open(env, to, 0, 0600), "env open");
    uint64_t began_us = clock_mono_us();
    int r = store_iter_next(&it);
    while (r == STORE_OK) {
        MDB_txn *txn;
        must(mdb_txn_begin(env, NULL, 0, &txn), "begin");
        must(mdb_dbi_open(txn, NULL, 0, &dbi), "dbi");
        for (uint64_t k = 0; k < batch && r == STORE_OK; k++, n++) {
            char key[8];
            MDB_val mk = { sizeof(key), key }, mv = { it.size, NULL };
            memcpy(key, it.key, sizeof(key));
            memcpy(&mv.mv_data, &it.value, sizeof(it.value));
            must(mdb_put(txn, dbi, &mk, &mv, MDB_APPEND), "put");
            r = store_iter_next(&it);
        }
        must(mdb_txn_commit(txn), "commit");
    }
    printf("%.0f\n", rate(n, clock_mono_us() - began_us));
    mdb_env_close(env);
    store_abort(view);
    store_close(store);
}

int
main(int argc, char **argv)
{
    if (argc != 5 || sodium_init() < 0)
        return 2;
    uint64_t batch = strtoull(argv[4], NULL, 10);
    bool apart = strcmp(argv[1], "apart") == 0;
    if (apart || strcmp(argv[1], "fill") == 0)
        fill(argv[2], strtoull(argv[3], NULL, 10), batch, apart);
    else
        copy(argv[2], argv[3], batch);
    return 0;
}
